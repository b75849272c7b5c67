"""`make matrix`: a fresh environment with the lowest, and one with the newest versions allowed; some tests in each.

python -m tests.matrix [lower] [upper] [--folder FOLDER] [--keep] [--torch VERSION] [--torch-index URL]
    [--tests TEST ...]

Nothing in .venv changes. Each environment takes about 3 GB and some minutes, and is deleted when its tests have ended.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import distributions
from pathlib import Path

from packaging.utils import canonicalize_name

from tests.matrix.bounds import ROOT, RUNNERS, Side, constraints, pinned, stated

TESTS = (
    "tests/contracts",
    "tests/numerics",
    "tests/unit/test_model.py",
    "tests/unit/test_assessment.py",
    "tests/distributed/test_zero_parity.py",
    "tests/tracking/test_tracking.py",
    "tests/cli/test_cli.py",
    "tests/ray/test_pipeline.py::test_training_through_ray_equals_plain_torch",
)
HANG_S = "900"
"""A test that takes longer hangs."""


def install(folder: Path, side: Side, torch: str, torch_index: str | None) -> bool:
    """Make a virtual environment in `folder` with cpl-ray (editable) and what its tests need; False if pip fails."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    limits = folder / "constraints.txt"
    limits.write_text(constraints(side, torch), encoding="utf-8")
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "-c", str(limits)]
    index = ["--index-url", torch_index] if torch_index else []
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PIP_NO_COMPILE"] = "0"  # means "compile": the tests start many processes, which would do it each
    for wanted in ([*index, "torch"], ["-e", str(ROOT), *RUNNERS]):
        if subprocess.run([*pip, *wanted], env=environment).returncode:
            return False
    return True


def versions(folder: Path) -> dict[str, str]:
    """Return the installed version of every package that pyproject.toml names."""
    found = {
        canonicalize_name(one.metadata["Name"]): one.version
        for site in (folder / "lib").glob("python*/site-packages")
        for one in distributions(path=[str(site)])
    }
    return {one.name: found.get(canonicalize_name(one.name), "not installed") for one in stated()}


def run_tests(folder: Path, tests: list[str]) -> int:
    """Run tests with the environment in `folder`; return pytest's exit code."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [str(folder / "bin" / "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", HANG_S]
    return subprocess.run([*command, *tests], cwd=ROOT, env=environment).returncode


def main() -> int:
    """Try the named ends; exit code 1 if pip or a test failed at one of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("sides", nargs="*", help="lower, upper; both by default")
    parser.add_argument("--folder", type=Path, help="where environments are made; a temporary folder by default")
    parser.add_argument("--keep", action="store_true", help="keep the environments")
    parser.add_argument("--torch", default=pinned("torch"), help="version of torch at both ends (%(default)s)")
    parser.add_argument("--torch-index", help="where torch comes from, e.g. an index of CPU builds")
    parser.add_argument("--tests", nargs="+", default=list(TESTS), help="what pytest is given")
    chosen = parser.parse_args()
    sides = chosen.sides or ["lower", "upper"]
    if unknown := [side for side in sides if side not in ("lower", "upper")]:
        parser.error(f"there is no end {unknown[0]!r}; valid are lower and upper")
    base = chosen.folder or Path(tempfile.mkdtemp(prefix="cpl-matrix-"))
    outcomes: dict[str, str] = {}
    for side in sides:
        folder, begun = base / side, time.monotonic()
        try:
            if not install(folder, side, chosen.torch, chosen.torch_index or None):
                outcomes[side] = "pip failed"
                continue
            print(
                f"{side}: " + ", ".join(f"{name} {version}" for name, version in versions(folder).items()), flush=True
            )
            code = run_tests(folder, chosen.tests)
            outcomes[side] = "passed" if code == 0 else f"failed (pytest's exit code {code})"
        finally:
            if not chosen.keep:
                shutil.rmtree(folder, ignore_errors=True)
        outcomes[side] += f", {time.monotonic() - begun:.0f} s"
    for side, outcome in outcomes.items():
        print(f"{side}: {outcome}")
    return 0 if all(outcome.startswith("passed") for outcome in outcomes.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
