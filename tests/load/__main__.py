"""`make load`: put the project under load, print what came of it; exit code 1 if something was lost or broken.

python -m tests.load tracking [--writers 8] [--updates 300]
python -m tests.load items [--count 10000]
python -m tests.load soak [--minutes 3]
python -m tests.load sweep [--trials 64]
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cpl_ray.environment import snapshot
from tests.load import items, soak, sweep, tracking

LOADS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "tracking": tracking.run,
    "items": items.run,
    "soak": soak.run,
    "sweep": sweep.run,
}
"""Each returns its figures, with `faults`: what must not happen, in words; empty if all is well."""


def main() -> int:
    """Run the named loads; all but the sweep, which takes half an hour, if none is named."""
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(LOADS)}")
    parser.add_argument("--writers", type=int, default=8, help="processes on one store. Only tracking")
    parser.add_argument("--updates", type=int, default=300, help="records of each. Only tracking")
    parser.add_argument("--count", type=int, default=10_000, help="items of the run. Only items")
    parser.add_argument("--minutes", type=float, default=3.0, help="how long it trains. Only soak")
    parser.add_argument("--trials", type=int, default=64, help="trials that wait for two cores. Only sweep")
    parser.add_argument("--output", type=Path, help="JSON of all figures")
    chosen = parser.parse_args()
    if unknown := [name for name in chosen.names if name not in LOADS]:
        parser.error(f"there is no load {unknown[0]!r}; valid are {', '.join(LOADS)}")
    found: dict[str, Any] = {}
    for name in chosen.names or [name for name in LOADS if name != "sweep"]:
        with tempfile.TemporaryDirectory(prefix=f"cpl-load-{name}-") as folder:
            found[name] = LOADS[name](Path(folder), chosen)
        print(f"{name}: {json.dumps(found[name])}", flush=True)
    if chosen.output:
        chosen.output.write_text(json.dumps(found | {"environment": snapshot()}, indent=1) + "\n")
    faults = [f"{name}: {fault}" for name, figures in found.items() for fault in figures["faults"]]
    print("\n".join(faults) or "nothing was lost")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
