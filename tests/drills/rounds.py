"""All drills of a job: what `make drills` and the few of them among the tests do."""

from collections.abc import Iterator

from tests.drills.blows import undisturbed
from tests.drills.cells import Wanted, faults, unseen
from tests.drills.drill import Drill
from tests.drills.hitting import run_fault
from tests.drills.jobs import Job
from tests.ray.conftest import World


def drilled(world: World, job: Job, wanted: Wanted) -> Iterator[Drill]:
    """Run a job undisturbed, then hit it again and again; yields what came of each drill.

    Args:
        world: holds the model and the items.
        job: what is hit.
        wanted: which drills are asked for.
    """
    (world.folder / job.config).write_text(job.text)
    calm = world.runs / f"calm-{job.verb}"
    lives = undisturbed(world, job, calm.name)
    for (kind, stage), (first, last) in lives.items():
        print(f"undisturbed {job.verb}, {kind}: lives from {first:.1f} to {last:.1f} s of {stage}", flush=True)
    for kind in unseen(job, lives, wanted):
        yield Drill.without_hit(kind, job.verb)
    for name, kind, fault in faults(world.folder / "faults", job, lives, job.updates(calm), wanted):
        fault.begin()
        try:
            drill = run_fault(world, name, kind, fault, calm)
        finally:
            fault.end()
        yield drill
