"""`make drills`: blows to every kind of process, storage, clock and tracking server in the whole job and in a sweep.

python -m tests.drills [--rounds N] [--seed S] [--job run|sweep] [--kind PART|PART] [--stage STAGE]
                       [--every-stage] [--output FILE.json] [--markdown FILE.md]
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from tests.drills.cells import Wanted, kinds
from tests.drills.drill import Drill
from tests.drills.jobs import RUN_JOB, SWEEP_JOB
from tests.drills.rounds import drilled
from tests.drills.table import table
from tests.drills.verdict import verdict
from tests.faults import mounts
from tests.ray.conftest import World, build_model, facts, write_rows

INSIDE = "CPL_DRILLS_INSIDE"
"""Set in the mount namespace that the drills have for themselves."""
JOBS = {job.verb: job for job in (RUN_JOB, SWEEP_JOB)}


def main() -> int:
    """Run the drills; exit code 1 if one that hit was not survived, or one that was wanted never hit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, help="drills of each kind")
    parser.add_argument("--every-stage", action="store_true", help="hit each process in each of its stages")
    parser.add_argument("--seed", type=int, default=0, help="other moments")
    parser.add_argument("--job", choices=JOBS, help="only this one")
    parser.add_argument("--kind", default="", help="only kinds whose name holds this; several: split by |")
    parser.add_argument("--stage", default="", help="only in this stage, e.g. registering")
    parser.add_argument("--output", type=Path, help="JSON of all drills")
    parser.add_argument("--markdown", type=Path, help="table of the results")
    chosen = parser.parse_args()
    jobs = [JOBS[chosen.job]] if chosen.job else list(JOBS.values())
    if not any(Wanted(chosen.kind)(kind) for kind in kinds(jobs)):
        parser.error(f"no kind has {chosen.kind!r} in its name; valid are {'; '.join(kinds(jobs))}")
    if mounts.possible() and INSIDE not in os.environ:  # what is mounted here goes with this process
        command = [*mounts.PRIVATE, sys.executable, "-m", "tests.drills", *sys.argv[1:]]
        os.execvpe(command[0], command, {**os.environ, INSIDE: "1"})
    world = World(Path(tempfile.mkdtemp(prefix="cpl-drills-")))
    build_model(world.folder / "model")
    write_rows(world.folder / "items.jsonl", facts())
    wanted = Wanted(chosen.kind, chosen.stage, chosen.every_stage, chosen.rounds, chosen.seed)
    drills: list[Drill] = []
    for job in jobs:
        for drill in drilled(world, job, wanted):
            drills.append(drill)
            tell(drill)
            if chosen.output:
                chosen.output.write_text(json.dumps([drill.to_dict() for drill in drills], indent=1) + "\n")
            if chosen.markdown:
                chosen.markdown.write_text(table(drills), encoding="utf-8")
    found = verdict(drills)
    print(f"{len(drills)} drills: {found}", *(f"never hit: {cell}" for cell in found.missing), sep="\n")
    return found.exit_code


def tell(drill: Drill) -> None:
    """Print what came of a drill."""
    if not drill.found:
        why = f"skipped, {drill.skipped}" if drill.skipped else "nothing was hit"
        print(f"{drill.verb}, {drill.kind}{f' in {drill.aim}' if drill.aim else ''}: {why}", flush=True)
        return
    print(
        f"{drill.verb}, {drill.kind} at {drill.at_s:g} s ({drill.stage}, {drill.updates} updates): "
        f"exit codes {drill.exit_codes}, {'; '.join(drill.faults) or 'survived'}, {drill.seconds:g} s",
        *(f"  said: {message}" for message in drill.messages),
        sep="\n",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
