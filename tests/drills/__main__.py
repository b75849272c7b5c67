"""`make drills`: blows to every kind of process, storage, clock and tracking server in the whole job, and the count.

python -m tests.drills [--rounds N] [--seed S] [--kind PART]... [--output FILE.json] [--markdown FILE.md]
"""

import argparse
import json
import os
import random
import sys
import tempfile
from pathlib import Path

from tests.drills.drill import KINDS, RUN, Drill, run_drill, undisturbed
from tests.drills.faults import FAULTS
from tests.drills.hitting import make, run_fault
from tests.drills.table import table
from tests.faults import mounts
from tests.ray.conftest import NUM_UPDATES, World, build_model, facts, write_rows

INSIDE = "CPL_DRILLS_INSIDE"
"""Set in the mount namespace that the drills have for themselves."""


def main() -> int:
    """Run the drills; exit code 1 if one was not survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="drills of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON of all drills")
    parser.add_argument("--markdown", type=Path, help="table of the results")
    parser.add_argument("--kind", default="", help="only kinds whose name holds this; several: split by |")
    chosen = parser.parse_args()
    every = [*KINDS, *FAULTS]
    kinds = [kind for kind in every if any(part in kind for part in chosen.kind.split("|"))]
    if not kinds:
        parser.error(f"no kind has {chosen.kind!r} in its name; kinds are: {'; '.join(every)}")
    if mounts.possible() and INSIDE not in os.environ:  # what is mounted here goes with this process
        command = [*mounts.PRIVATE, sys.executable, "-m", "tests.drills", *sys.argv[1:]]
        os.execvpe(command[0], command, {**os.environ, INSIDE: "1"})
    world = World(Path(tempfile.mkdtemp(prefix="cpl-drills-")))
    build_model(world.folder / "model")
    write_rows(world.folder / "items.jsonl", facts())
    (world.folder / "drill.yaml").write_text(RUN)
    lives = undisturbed(world, "calm")
    for kind in kinds:
        if kind in KINDS:
            first, last = lives[kind]  # a kind that never lived is a mistake in KINDS
            print(f"undisturbed, {kind}: lives from {first:.1f} to {last:.1f} s", flush=True)
    random_moment = random.Random(chosen.seed)
    drills: list[Drill] = []
    for number in range(chosen.rounds):
        for index, kind in enumerate(kinds):
            name = f"drill-{number}-{index}"
            if kind in KINDS:
                drill = run_drill(world, name, kind, random_moment.uniform(*lives[kind]), world.runs / "calm")
            else:
                fault = make(FAULTS[kind], world.folder / "faults" / name, random_moment.randint(3, NUM_UPDATES - 2))
                try:
                    drill = run_fault(world, name, kind, fault, world.runs / "calm")
                finally:
                    fault.end()
            drills.append(drill)
            came = "survived" if not drill.faults else "; ".join(drill.faults)
            print(
                f"{kind} at {drill.at_s:g} s ({drill.stage}, {drill.updates} updates"
                f"{'' if drill.found else ', nothing hit'}): exit codes {drill.exit_codes}, {came}",
                *(f"  said: {message}" for message in drill.messages),
                sep="\n",
                flush=True,
            )
            if chosen.output:
                chosen.output.write_text(json.dumps([drill.to_dict() for drill in drills], indent=1) + "\n")
            if chosen.markdown:
                chosen.markdown.write_text(table(drills), encoding="utf-8")
    hits = [drill for drill in drills if drill.found]
    lost = [drill for drill in drills if drill.faults]
    print(f"{len(drills)} drills, {len(hits)} hit something, {len(drills) - len(lost)} survived")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
