"""Estimators of the mastered gradient at equal cost: fresh batch, 8-bit average, vote; held-out forgotten when stopped.

`python -m benchmarks.estimators RUN [RUN ...]`, each the folder of a finished run (`make demo-seeds` leaves some).
"""

import argparse
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.demo_world import World
from cpl_ray.calibration import one_process
from cpl_ray.environment import snapshot
from cpl_ray.rundir import atomic_write_text

ESTIMATORS: dict[str, dict[str, Any]] = {
    "sign": {"mastered_state": "sign"},
    "ema8 0.6": {"mastered_state": "ema8", "mastered_average": 0.6},
    "ema8 0.8": {"mastered_state": "ema8", "mastered_average": 0.8},
    "ema8 0.9": {"mastered_state": "ema8", "mastered_average": 0.9},
    "vote 0.8, 0.5": {"mastered_state": "vote", "mastered_average": 0.8, "vote_majority": 0.5},
}


def main() -> None:
    """Train every estimator in every run's world and write what came of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimators", description=main.__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--refresh", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--only", nargs="+", choices=list(ESTIMATORS), default=list(ESTIMATORS))
    parser.add_argument("--lr", type=float, help="instead of the runs' own")
    parser.add_argument("--out", type=Path, default=Path("benchmarks", "results", "estimators.json"))
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    optimizer = {} if options.lr is None else {"lr": options.lr}
    with one_process(1):
        for refresh in options.refresh:
            for run in options.runs:
                for name in options.only:
                    result = World(run).train({**ESTIMATORS[name], "refresh": refresh}, optimizer=optimizer)
                    del result["state"]
                    rows.append({"refresh": refresh, "run": run.name, "estimator": name, **result})
                    print(json.dumps(rows[-1]), flush=True)
    record = {"date": datetime.now().isoformat(timespec="seconds"), "lr": options.lr, "rows": rows}
    atomic_write_text(options.out, json.dumps(record | {"environment": snapshot()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
