"""`python -m benchmarks.scale`: what grows with what. A table and a fitted line for each cost; raw numbers beside."""

import argparse
import json
import math
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from benchmarks import scale_items, scale_store, scale_training
from benchmarks.__main__ import processor
from benchmarks.fitted import Series
from cpl_ray.environment import snapshot
from cpl_ray.rundir import atomic_write_text
from pipelines.tables import print_table

PARTS: dict[str, Callable[[int, float | None], list[Series]]] = {
    "parameters": scale_training.parameters,
    "tokens": scale_training.tokens,
    "mastered": scale_training.mastered,
    "workers": scale_training.workers,
    "items": scale_items.items,
    "tokenising": scale_items.tokenising,
    "store": scale_store.store,
    "pool": scale_store.pool,
    "blocks": scale_store.blocks,
}


def main() -> None:
    """Run the named parts, all by default."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=main.__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(PARTS)}; none: all")
    parser.add_argument("--rounds", type=int, default=5, help="timings of which the median is taken, where there are")
    parser.add_argument("--largest", type=float, help="leave larger sizes out (as the part's help counts them)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks", "results"))
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in PARTS]:
        parser.error(f"there is no part {unknown[0]!r}; valid are {', '.join(PARTS)}")
    for name in options.names or PARTS:
        print(f"{name}: {(PARTS[name].__doc__ or '').strip()}", flush=True)
        series = PARTS[name](options.rounds, options.largest)
        for one in series:
            show(one)
        environment = snapshot()
        record = {"name": name, "date": datetime.now().isoformat(timespec="seconds"), "rounds": options.rounds}
        record |= {"series": [one.to_dict() for one in series], "environment": environment}
        machine = f"{environment['machine']}, {processor()}, {environment['num_cpus']} CPUs"
        print(f"{record['date']}, torch {environment['versions']['torch']}, {machine}, rounds {options.rounds}")
        atomic_write_text(options.out / f"scale_{name}.json", json.dumps(record, indent=1) + "\n")
    print(f"raw numbers: {options.out}")


def show(series: Series) -> None:
    """Print the points of a series as a row of a table, and its line."""
    sizes = (f"{size:,.4g}" if size < 1 else f"{size:,.0f}" for size, _ in series.points)
    print_table((f"{series.name}: {series.size}", *sizes), [(series.cost, *(_short(c) for _, c in series.points))])
    line = series.line()
    if line is not None:
        exponent = "" if math.isnan(line.exponent) else f", exponent {line.exponent:.2f}"
        print(f"  slope {line.slope:.3g}, intercept {line.intercept:.3g}, R² {line.r2:.4f}{exponent}", flush=True)


def _short(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


if __name__ == "__main__":
    main()
