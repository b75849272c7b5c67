"""`make drills`: kill -9 and other blows to every kind of process at random moments of the whole job, and the count.

python -m tests.drills [--rounds N] [--seed S] [--output FILE.json] [--kind PART]
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

from tests.drills.drill import KINDS, RUN, Drill, run_drill, undisturbed
from tests.ray.conftest import World, build_model, facts, write_rows


def main() -> int:
    """Run the drills; exit code 1 if one was not survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="drills of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON of all drills")
    parser.add_argument("--kind", default="", help="only kinds whose name holds this")
    chosen = parser.parse_args()
    kinds = [kind for kind in KINDS if chosen.kind in kind]
    if not kinds:
        parser.error(f"no kind has {chosen.kind!r} in its name; kinds are: {'; '.join(KINDS)}")
    world = World(Path(tempfile.mkdtemp(prefix="cpl-drills-")))
    build_model(world.folder / "model")
    write_rows(world.folder / "items.jsonl", facts())
    (world.folder / "drill.yaml").write_text(RUN)
    lives = undisturbed(world, "calm")
    for kind in kinds:
        first, last = lives[kind]  # a kind that never lived is a mistake in KINDS
        print(f"undisturbed, {kind}: lives from {first:.1f} to {last:.1f} s", flush=True)
    random_moment = random.Random(chosen.seed)
    drills: list[Drill] = []
    for number in range(chosen.rounds):
        for index, kind in enumerate(kinds):
            at_s = random_moment.uniform(*lives[kind])
            drill = run_drill(world, f"drill-{number}-{index}", kind, at_s, world.runs / "calm")
            drills.append(drill)
            came = "survived" if not drill.faults else "; ".join(drill.faults)
            print(
                f"{kind} at {drill.at_s:g} s ({drill.stage}, {drill.updates} updates"
                f"{'' if drill.found else ', no such process'}): exit codes {drill.exit_codes}, {came}",
                flush=True,
            )
    if chosen.output:
        chosen.output.write_text(json.dumps([drill.to_dict() for drill in drills], indent=1) + "\n")
    hits = [drill for drill in drills if drill.found]
    lost = [drill for drill in drills if drill.faults]
    print(f"{len(drills)} drills, {len(hits)} hit a process, {len(drills) - len(lost)} survived")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
