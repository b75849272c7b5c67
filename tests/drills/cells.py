"""Which kinds are hit in which stages, and when: what one round of drills is made of."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.drills.blows import KINDS, Blow, Lives
from tests.drills.faults import (
    ClockBack,
    ClockJump,
    CorruptShard,
    FailingWrites,
    Fault,
    FullDisk,
    FullDiskLate,
    HalfCheckpoint,
    ReadOnly,
    TornCheckpoint,
)
from tests.drills.jobs import RUN_JOB, SWEEP_JOB, Job
from tests.drills.servers import TrackingServer, TrackingServerEarly, TrackingServerLate

SHORT_S = 2.0
"""A life below this in a stage is drawn only if the kind has no longer one: it may be over before it is hit."""
SUDDEN_S = 1.0
"""A life below this is hit as soon as it is seen, any other at a random moment."""
PASSING_S = 0.5
"""What is seen for less is mostly the end of the stage before, and not aimed at."""
UNTIL = 0.9
"""Share of a life in which to hit: the next may be shorter."""
LATE = ("evaluating", "registering")
ALWAYS = {"kill -9, the driver": LATE, "kill -9, the raylet": LATE, "kill -9, a scoring actor": ("evaluating",)}
"""Stages in which a kind is hit besides the one that is drawn, however short it lives there."""
WITHOUT = {RUN_JOB.verb: ("kill -9, a trial's driver",), SWEEP_JOB.verb: ("kill -9, another rank",)}
"""Kinds of process that a job has not got: no trials, one worker each."""
FAULTS: dict[Job, dict[str, tuple[type[Fault], str]]] = {
    RUN_JOB: {
        "disk full while training": (FullDisk, "training"),
        "disk full while evaluating": (FullDiskLate, "evaluating"),
        "disk lost, file system read-only": (ReadOnly, "training"),
        "storage fails at every n-th write": (FailingWrites, "training"),
        "checkpoint torn": (TornCheckpoint, "training"),
        "checkpoint half written": (HalfCheckpoint, "training"),
        "shard of the assessment corrupt": (CorruptShard, "training"),
        "clock jumps a day ahead": (ClockJump, "training"),
        "clock jumps a day back": (ClockBack, "training"),
        "kill -9, the MLflow server": (TrackingServer, "training"),
        "kill -9, the MLflow server while assessing": (TrackingServerEarly, "assessing"),
        "kill -9, the MLflow server while evaluating": (TrackingServerLate, "evaluating"),
        "kill -9, the MLflow server while registering": (TrackingServerLate, "registering"),
    },
    SWEEP_JOB: {
        "disk full while training": (FullDisk, "trials"),
        "kill -9, the MLflow server": (TrackingServer, "trials"),
    },
}
"""Kinds of fault with the stage in which each strikes."""
_COMMAND = "kill -9, the driver"
"""The kind that lives in every stage from its begin to its end."""


@dataclass(frozen=True)
class Wanted:
    """Which drills are asked for."""

    kind: str = ""
    """Parts of names of kinds, split by |; empty: all."""
    stage: str = ""
    """Only in this one; empty: in all."""
    every_stage: bool = False
    rounds: int = 1
    seed: int = 0

    def __call__(self, kind: str, stage: str | None = None) -> bool:
        """Tell whether a kind is wanted, and in this stage."""
        return any(part in kind for part in self.kind.split("|")) and (not stage or self.stage in ("", stage))


def window(life: tuple[float, float]) -> tuple[float, float]:
    """Return the seconds into a stage between which to hit a life."""
    first, last = life
    return (first, first + UNTIL * (last - first)) if last - first >= SUDDEN_S else (0.0, 0.0)


def drawn(lives: Lives, moment: random.Random, *, every_stage: bool) -> list[tuple[str, str]]:
    """Return kinds with stages: of each kind those of `ALWAYS` and one of the others, or all with `every_stage`."""
    cells: list[tuple[str, str]] = []
    for kind in dict.fromkeys(kind for kind, _ in lives):
        lasts = {cell: last - first for cell, (first, last) in lives.items() if cell[0] == kind}
        always = [cell for cell in lasts if cell[1] in ALWAYS.get(kind, ())]
        others = [cell for cell in lasts if cell not in always and lasts[cell] >= PASSING_S]
        if every_stage:
            cells += [cell for cell in lasts if cell in always + others]
            continue
        most = max(lasts.values())
        aims = [cell for cell in others if lasts[cell] >= SHORT_S] or others
        if not aims and not always:
            aims = [cell for cell in lasts if lasts[cell] == most][:1]
        cells += [*([moment.choice(aims)] if aims else []), *always]
    return cells


def unseen(job: Job, lives: Lives, wanted: Wanted) -> list[str]:
    """Return the wanted kinds of process that the undisturbed job ought to have shown and has not."""
    lived = {kind for kind, _ in lives}
    return [kind for kind in KINDS if wanted(kind) and kind not in lived and kind not in WITHOUT[job.verb]]


def faults(folder: Path, job: Job, lives: Lives, updates: int, wanted: Wanted) -> Iterator[tuple[str, str, Fault]]:
    """Yield the drills of a job: name, kind and what is done.

    Args:
        folder: where each gets a place of its own.
        job: what is hit.
        lives: when its processes lived while it was undisturbed.
        updates: how many updates it makes.
        wanted: which are asked for.
    """
    moment = random.Random(f"{wanted.seed} {job.verb}")

    def place(name: str) -> Path:
        (folder / name).mkdir(parents=True)
        return folder / name

    for number in range(wanted.rounds):
        some = {cell: life for cell, life in lives.items() if wanted(*cell)}
        for index, (kind, stage) in enumerate(drawn(some, moment, every_stage=wanted.every_stage)):
            name = f"blow-{job.verb}-{number}-{index}"
            delay_s, update = moment.uniform(*window(lives[kind, stage])), 0
            if stage == job.updating and number % 2 == 0:
                delay_s, update = 0, moment.randint(1, updates - 2)
            yield name, kind, Blow(place(name), update, job=job, kind=kind, stage=stage, delay_s=delay_s)
        for index, (kind, (fault, stage)) in enumerate(FAULTS[job].items()):
            name, update = f"fault-{job.verb}-{number}-{index}", moment.randint(3, updates - 2)
            delay_s = moment.uniform(*window(lives.get((_COMMAND, stage), (0.0, 0.0))))
            if wanted(kind, stage):
                yield name, kind, fault(place(name), update, job=job, stage=stage, delay_s=delay_s)


def kinds(jobs: Sequence[Job]) -> list[str]:
    """Return the names of all kinds that these jobs can be hit with."""
    return list(dict.fromkeys(kind for job in jobs for kind in (*KINDS, *FAULTS[job]) if kind not in WITHOUT[job.verb]))
