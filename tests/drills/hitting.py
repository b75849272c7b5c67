"""A drill with a fault of storage, clock or tracking server: strike, see how it ends, mend, continue, compare."""

import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from tests.drills.drill import ATTEMPTS, TEMPORARY, TIMEOUT_S, Drill, differences, ended, stage_of
from tests.drills.faults import Fault
from tests.drills.temporary import kinds_left, variables
from tests.ray.conftest import AFTER_KILL_S, World, left_behind, steps

SHOWN = 500
CALM_ENDS = (1, 3)
"""Exit codes of a command that a fault has ended: failed while running, or refused."""


class Hit:
    """One command, struck once it is due."""

    def __init__(self, world: World, fault: Fault, name: str) -> None:
        self.fault, self.folder = fault, fault.runs / name
        places = fault.variables | variables(fault.place / TEMPORARY)
        self.process = world.start("run", "drill.yaml", *_where(fault, name), stderr=subprocess.PIPE, **places)
        self.stage, self.updates, self.at_s = "", 0, 0.0

    def struck(self) -> bool:
        """Wait for the moment, strike, and wait for the end; False if the command ended before."""
        started, done = time.monotonic(), False
        while self.process.poll() is None and time.monotonic() - started < TIMEOUT_S:
            if not done and self.fault.due(self.folder):
                self.stage, self.updates = stage_of(self.folder), len(steps(self.folder))
                self.at_s = round(time.monotonic() - started, 1)
                self.fault.strike(self.folder, self.process)
                done = True
            elif done:
                self.fault.watch(self.folder)
            time.sleep(0.02)
        return done


def _where(fault: Fault, name: str) -> list[str]:
    return [f"run.dir={fault.runs}", f"run.name={name}", *fault.arguments]


def _reading(process: Any) -> "tuple[threading.Thread, list[Any]]":
    """Read a command's output while it runs: a full pipe would stop it."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(ended(process)), daemon=True)
    thread.start()
    return thread, found


def run_fault(world: World, name: str, kind: str, fault: Fault, calm: Path) -> Drill:
    """Start the whole job, strike, mend, continue until it is done, and compare with the undisturbed run."""
    started = time.monotonic()
    if fault.not_possible:
        return Drill(kind, 0, False, f"skipped: {fault.not_possible}", 0, [], [], 0)
    hit = Hit(world, fault, name)
    thread, found = _reading(hit.process)
    was_hit = hit.struck()
    thread.join()
    code, said = found[0]
    killed = code == -signal.SIGKILL
    faults = [] if killed else judged(code, said, fault.said)
    exit_codes, messages = [code], [_last_line(said)] if code not in (0, -signal.SIGKILL) else []
    faults += [f"left behind: {line}" for line in left_behind(hit.process, AFTER_KILL_S)]
    fault.heal(hit.folder)
    while exit_codes[-1] != 0 and len(exit_codes) < ATTEMPTS:
        resume = ["run.resume=true"] if (hit.folder / "config.yaml").exists() else []
        arguments = ("run", "drill.yaml", *_where(fault, name), *resume)
        process = world.start(*arguments, stderr=subprocess.PIPE, **variables(fault.place / TEMPORARY))
        code, said = ended(process)
        exit_codes.append(code)
        faults += judged(code, said, fault.mended)
        if code:
            messages.append(_last_line(said))
            fault.clear(hit.folder)
        faults += [f"left behind: {line}" for line in left_behind(process, AFTER_KILL_S)]
    faults += differences(hit.folder, calm) if exit_codes[-1] == 0 else ["could not be continued"]
    usual = kinds_left(world.folder / TEMPORARY)
    for first, names in kinds_left(fault.place / TEMPORARY).items():
        if first not in usual and not killed:  # nobody can clean up after kill -9
            faults.append(f"temporary files: {', '.join(names)}")
    seconds = round(time.monotonic() - started, 1)
    return Drill(kind, hit.at_s, was_hit, hit.stage, hit.updates, exit_codes, faults, seconds, messages)


def judged(code: int, said: str, expected: str) -> list[str]:
    """Return what is wrong with how a command has ended: with 0, or with 1 or 3 and the expected message."""
    if code == 0:
        return []
    faults = [] if code in CALM_ENDS else [f"exit code {code}"]
    if (at := said.find("Traceback (most recent call last)")) >= 0:
        faults.append(f"a traceback was printed: {said[max(0, at - SHOWN) : at + 3 * SHOWN]}")
    if not re.search(expected, said):
        faults.append(f"the message is not as expected: {_last_line(said)!r}")
    return faults


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def make(kind: type[Fault], place: Path, update: int) -> Fault:
    """Return a fault that is ready to strike after an update."""
    place.mkdir(parents=True)
    fault = kind(place, update)
    fault.begin()
    return fault
