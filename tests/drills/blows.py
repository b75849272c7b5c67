"""Signals to one process of a kind, at a random moment of a stage in which such processes live.

The moment is a time; in a stage that updates the model every other one is an update, as it mostly starts things.
"""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.drills.faults import Fault
from tests.drills.jobs import ENDED, Job
from tests.drills.temporary import TEMPORARY, variables
from tests.ray.conftest import World, commands

Lines = Mapping[psutil.Process, str]
"""Processes of a job with their command lines; the command itself is not among them."""
Find = Callable[[Lines, Path], list[psutil.Process]]
Lives = dict[tuple[str, str], tuple[float, float]]
"""When processes of a kind lived in a stage: first and last moment at which one was seen, in seconds into the stage."""
SAMPLE_S = 0.1
EVERYBODY = "SIGTERM to all processes"
OF_SIGNALS = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}


def _named(part: str) -> Find:
    return lambda lines, folder: [one for one, line in lines.items() if part in line]


def _rank(matches: Callable[[int], bool]) -> Find:
    """Find workers of training by the number of their process, the last in their log."""

    def find(lines: Lines, folder: Path) -> list[psutil.Process]:
        numbers = []
        for path in (*folder.glob("train/logs/rank_*.jsonl"), *folder.glob("trials/*/train/logs/rank_*.jsonl")):
            with suppress(ValueError):  # half a line
                told = path.read_text().splitlines()
                if told and matches(int(path.stem.removeprefix("rank_"))):
                    numbers.append(json.loads(told[-1])["pid"])
        return [one for one in lines if one.pid in numbers]

    return find


def _driver(lines: Lines, folder: Path) -> list[psutil.Process]:
    return []  # the command itself, which is known without looking


KINDS: dict[str, tuple[Find, signal.Signals]] = {
    "kill -9, rank 0": (_rank(lambda rank: rank == 0), signal.SIGKILL),
    "kill -9, another rank": (_rank(lambda rank: rank > 0), signal.SIGKILL),
    "kill -9, Ray Train's controller": (_named("TrainController"), signal.SIGKILL),
    "kill -9, a scoring actor": (_named("MapWorker"), signal.SIGKILL),
    "kill -9, a trial's driver": (_named("ImplicitFunc"), signal.SIGKILL),
    "kill -9, the raylet": (_named("raylet/raylet"), signal.SIGKILL),
    "kill -9, Ray's control store": (_named("gcs_server"), signal.SIGKILL),
    "kill -9, the dashboard": (_named("dashboard/dashboard.py"), signal.SIGKILL),
    "kill -9, the driver": (_driver, signal.SIGKILL),
    "SIGTERM to the driver": (_driver, signal.SIGTERM),
    "SIGINT to the driver": (_driver, signal.SIGINT),
    EVERYBODY: (_driver, signal.SIGTERM),
}


def find(kind: str, process: Any, folder: Path, lines: Lines) -> list[psutil.Process]:
    """Return the living processes of a kind."""
    if KINDS[kind][0] is _driver:
        return [psutil.Process(process.pid)] if process.poll() is None else []
    return KINDS[kind][0](lines, folder)


def undisturbed(world: World, job: Job, name: str) -> Lives:
    """Run a job; return when processes of each kind lived in each stage."""
    places = variables(world.folder / TEMPORARY)
    process = world.start(job.verb, job.config, f"run.name={name}", stderr=subprocess.PIPE, **places)
    folder = world.runs / name
    begun: dict[str, float] = {}
    seen: Lives = {}
    while process.poll() is None:
        stage, lines, now = job.stage(folder), commands(process), time.monotonic()
        since = now - begun.setdefault(stage, now)
        for kind in KINDS:
            if find(kind, process, folder, lines):
                seen[kind, stage] = (seen.get((kind, stage), (since,))[0], since)
        time.sleep(SAMPLE_S)
    out, said = process.communicate()
    assert process.returncode == 0, out + said
    for stage in ("starting", ENDED):  # nothing to go on with, nothing left to do
        for kind in KINDS:
            seen.pop((kind, stage), None)
    return seen


@dataclass(kw_only=True)
class Blow(Fault):
    """A signal to one process of a kind, `delay_s` into a stage and not before the given update, or when it is over."""

    kind: str

    def begin(self) -> None:
        super().begin()
        self.number = KINDS[self.kind][1]
        self.kills = self.number is signal.SIGKILL or self.kind == EVERYBODY
        self.must_end = KINDS[self.kind][0] is _driver
        code, word = OF_SIGNALS.get(self.number, (1, "error: .*"))
        self.ends, self.said = (code, -signal.SIGKILL), f"{word}; continue with: cpl|leaving at once"
        self.target: psutil.Process | None = None

    def due(self, folder: Path, process: Any) -> bool:
        if not self.arrived(folder):
            return False
        if self.job.stage(folder) == self.stage and self.job.updates(folder) < self.update:
            return False
        targets = find(self.kind, process, folder, commands(process))
        self.target = random.Random(f"{self.place.name} {self.delay_s}").choice(targets) if targets else None
        return self.target is not None

    def strike(self, folder: Path, process: Any) -> None:
        assert self.target is not None
        try:
            if self.kind == EVERYBODY:
                os.killpg(process.pid, self.number)
            else:
                self.target.send_signal(self.number)
        except (psutil.NoSuchProcess, ProcessLookupError):  # it has just ended by itself
            self.missed = True
