"""`make bench`: run all benchmarks, print a table, and write the raw numbers with provenance."""

import argparse
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from benchmarks import optimizer_step, plan, scoring, training_step, training_step_large
from benchmarks.measure import Timing
from cpl_ray.environment import snapshot
from cpl_ray.rundir import atomic_write_text
from pipelines.tables import print_table

BENCHMARKS: dict[str, Callable[..., list[Timing]]] = {
    "optimizer_step": optimizer_step.run,
    "training_step": training_step.run,
    "training_step_large": training_step_large.run,
    "scoring": scoring.run,
    "plan": plan.run,
}


def main() -> None:
    """Run the named benchmarks, all by default."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHMARKS)}; none: all")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--model", help="folder of the model that is asked; none: a small random one. Only scoring")
    parser.add_argument("--num-items", type=int, default=60, help="items that are asked. Only scoring")
    parser.add_argument("--out", type=Path, default=Path("benchmarks", "results"))
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"there is no benchmark {unknown[0]!r}; valid are {', '.join(BENCHMARKS)}")
    if options.rounds < 2:
        parser.error(f"--rounds {options.rounds} has no spread; valid are 2 and more")
    for name in options.names or BENCHMARKS:
        more = {"model": options.model, "num_items": options.num_items} if name == "scoring" else {}
        timings = BENCHMARKS[name](options.rounds, **more)
        print(f"{name}: {(BENCHMARKS[name].__doc__ or '').strip()}")
        print_table(("", "median ms", "10 % - 90 %", "ratio"), [cells(one) for one in timings], numbers=True)
        record = {"name": name, "date": datetime.now().isoformat(timespec="seconds"), "rounds": options.rounds}
        environment = snapshot()
        record |= {"timings": [one.to_dict() for one in timings], "environment": environment}
        machine = f"{environment['machine']}, {processor()}, {environment['num_cpus']} CPUs"
        print(f"{record['date']}, torch {environment['versions']['torch']}, {machine}, rounds {options.rounds}")
        atomic_write_text(options.out / f"{name}.json", json.dumps(record, indent=1) + "\n")
    print(f"raw numbers: {options.out}")


def processor() -> str:
    """Return the processor's name, where Linux tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def cells(timing: Timing) -> tuple[str, ...]:
    """Return a table row."""
    spread = f"{timing.low_s * 1e3:.1f} - {timing.high_s * 1e3:.1f}"
    return timing.name, f"{timing.median_s * 1e3:.1f}", spread, f"{timing.ratio:.2f}"


if __name__ == "__main__":
    main()
