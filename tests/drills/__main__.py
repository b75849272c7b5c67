"""`make drills`: blows to every kind of process, storage, clock and tracking server in the whole job and in a sweep.

python -m tests.drills [--rounds N] [--seed S] [--job run|sweep] [--kind PART|PART] [--every-stage]
                       [--output FILE.json] [--markdown FILE.md]
"""

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.drills.blows import Blow, undisturbed
from tests.drills.drill import Drill
from tests.drills.faults import FAULTS, Fault
from tests.drills.hitting import run_fault
from tests.drills.jobs import RUN_JOB, SWEEP_JOB, Job
from tests.drills.table import table
from tests.faults import mounts
from tests.ray.conftest import World, build_model, facts, write_rows

INSIDE = "CPL_DRILLS_INSIDE"
"""Set in the mount namespace that the drills have for themselves."""
JOBS = {job.verb: job for job in (RUN_JOB, SWEEP_JOB)}


def main() -> int:
    """Run the drills; exit code 1 if one was not survived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, help="drills of each kind")
    parser.add_argument("--every-stage", action="store_true", help="hit each process in each of its stages, not in one")
    parser.add_argument("--seed", type=int, default=0, help="other moments")
    parser.add_argument("--job", choices=JOBS, help="only this one")
    parser.add_argument("--kind", default="", help="only kinds whose name holds this; several: split by |")
    parser.add_argument("--output", type=Path, help="JSON of all drills")
    parser.add_argument("--markdown", type=Path, help="table of the results")
    chosen = parser.parse_args()
    if mounts.possible() and INSIDE not in os.environ:  # what is mounted here goes with this process
        command = [*mounts.PRIVATE, sys.executable, "-m", "tests.drills", *sys.argv[1:]]
        os.execvpe(command[0], command, {**os.environ, INSIDE: "1"})
    world = World(Path(tempfile.mkdtemp(prefix="cpl-drills-")))
    build_model(world.folder / "model")
    write_rows(world.folder / "items.jsonl", facts())
    drills: list[Drill] = []
    for verb in [chosen.job] if chosen.job else JOBS:
        for name, kind, fault in cases(world, JOBS[verb], chosen):
            fault.begin()
            try:
                drill = run_fault(world, name, kind, fault, calm_run(world, JOBS[verb]))
            finally:
                fault.end()
            drills.append(drill)
            tell(drill)
            if chosen.output:
                chosen.output.write_text(json.dumps([drill.to_dict() for drill in drills], indent=1) + "\n")
            if chosen.markdown:
                chosen.markdown.write_text(table(drills), encoding="utf-8")
    if not drills:
        parser.error(f"no kind has {chosen.kind!r} in its name")
    hits = [drill for drill in drills if drill.found]
    lost = [drill for drill in drills if drill.faults]
    print(f"{len(drills)} drills, {len(hits)} hit something, {len(drills) - len(lost)} survived")
    return 1 if lost else 0


def calm_run(world: World, job: Job) -> Path:
    """Return the folder of the undisturbed run of a job."""
    return world.runs / f"calm-{job.verb}"


def cases(world: World, job: Job, chosen: argparse.Namespace) -> Iterator[tuple[str, str, Fault]]:
    """Run a job undisturbed and yield the drills of it: name, kind and fault."""

    def wanted(kind: str) -> bool:
        return any(part in kind for part in chosen.kind.split("|"))

    (world.folder / job.config).write_text(job.text)
    lives = undisturbed(world, job, calm_run(world, job).name)
    for (kind, stage), (first, last) in lives.items():
        print(f"undisturbed {job.verb}, {kind}: lives from {first:.1f} to {last:.1f} s of {stage}", flush=True)
    updates = job.updates(calm_run(world, job))
    moment = random.Random(f"{chosen.seed} {job.verb}")
    for number in range(chosen.rounds):
        cells = [cell for cell in lives if wanted(cell[0])]
        if not chosen.every_stage:
            kinds = dict.fromkeys(kind for kind, _ in cells)
            cells = [moment.choice([cell for cell in cells if cell[0] == kind]) for kind in kinds]
        for index, (kind, stage) in enumerate(cells):
            name = f"blow-{job.verb}-{number}-{index}"
            place = world.folder / "faults" / name
            place.mkdir(parents=True)
            delay_s, update = moment.uniform(*lives[kind, stage]), 0
            if stage == job.updating and number % 2 == 0:
                delay_s, update = 0, moment.randint(1, updates - 2)
            yield name, kind, Blow(place, update, job=job, kind=kind, stage=stage, delay_s=delay_s)
        for index, (kind, fault) in enumerate(FAULTS[job].items()):
            name, update = f"fault-{job.verb}-{number}-{index}", moment.randint(3, updates - 2)
            if wanted(kind):
                place = world.folder / "faults" / name
                place.mkdir(parents=True)
                yield name, kind, fault(place, update, job=job)


def tell(drill: Drill) -> None:
    """Print what came of a drill."""
    print(
        f"{drill.verb}, {drill.kind} at {drill.at_s:g} s ({drill.stage}, {drill.updates} updates"
        f"{'' if drill.found else ', nothing hit'}): exit codes {drill.exit_codes}, "
        f"{'; '.join(drill.faults) or 'survived'}, {drill.seconds:g} s",
        *(f"  said: {message}" for message in drill.messages),
        sep="\n",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
