"""The guard of finite steps at rates where first order breaks: unguarded (`monitor`) against `adapt` and `rollback`.

`python -m benchmarks.guard_rates RUN`, the folder of a finished run (`make demo` leaves some).
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


def main() -> None:
    """Train at every rate in every mode for the same number of updates and write what came of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard_rates", description=main.__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rates", nargs="+", type=float, default=[3e-4, 1e-3, 3e-3])
    parser.add_argument("--modes", nargs="+", default=["monitor", "adapt", "rollback"])
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--tolerance", type=float, default=0.0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks", "results", "guard_rates.json"))
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    train = {"max_steps": options.updates, "stop_at_learned": None}
    with one_process(1):
        for lr in options.rates:
            for mode in options.modes:
                result = World(options.run).train(
                    train,
                    optimizer={"lr": lr},
                    evaluate={"every": options.updates},
                    guard={"mode": mode, "tolerance": options.tolerance},
                )
                result |= {"guard": result.pop("state").guard}
                rows.append({"lr": lr, "mode": mode, **result})
                print(json.dumps(rows[-1]), flush=True)
    record = {"date": datetime.now().isoformat(timespec="seconds"), "tolerance": options.tolerance, "rows": rows}
    atomic_write_text(options.out, json.dumps(record | {"environment": snapshot()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
