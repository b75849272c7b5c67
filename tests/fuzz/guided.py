"""The same properties, guided by coverage: python -m tests.fuzz.guided TEST SECONDS (needs `pip install atheris`)."""

import sys

import atheris

with atheris.instrument_imports(include=["cpl_ray"]):
    from tests.fuzz import test_fuzz


def main() -> None:
    """Run one test of test_fuzz.py on inputs that reach new code, until the time is over or a case fails."""
    names = [name for name in vars(test_fuzz) if name.startswith("test_")]
    if len(sys.argv) != 3 or sys.argv[1] not in names:
        sys.exit(f"usage: python -m tests.fuzz.guided TEST SECONDS; tests are {', '.join(names)}")
    test = getattr(test_fuzz, sys.argv[1])
    atheris.Setup([sys.argv[0], f"-max_total_time={sys.argv[2]}"], test.hypothesis.fuzz_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
