"""A drill: start a job, strike, see how it ends, mend, continue until it is done, compare."""

import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from tests.drills.drill import Drill
from tests.drills.faults import Fault
from tests.drills.temporary import TEMPORARY, kinds_left, variables
from tests.processes import kill
from tests.ray.conftest import AFTER_KILL_S, World, left_behind, marked

SHOWN = 500
TIMEOUT_S = 900
ATTEMPTS = 4
AT_LAST_S = 5.0
"""Seconds in which a command that was about to end may end with 0."""
REFUSED = (1, 3)
"""Exit codes of a continuation that finds what the fault has left."""


class Hit:
    """One command, struck once it is due."""

    def __init__(self, world: World, fault: Fault, name: str) -> None:
        self.fault, self.folder = fault, fault.runs / name
        places = fault.variables | variables(fault.place / TEMPORARY)
        self.process = world.start(
            fault.job.verb, fault.job.config, *_where(fault, name), stderr=subprocess.PIPE, **places
        )
        self.stage, self.updates, self.at_s, self.struck_at = "", 0, 0.0, 0.0

    def struck(self) -> bool:
        """Wait for the moment, strike, and wait for the end; False if the command ended before."""
        started, done = time.monotonic(), False
        while self.process.poll() is None and time.monotonic() - started < TIMEOUT_S:
            if not done and self.fault.due(self.folder, self.process):
                self.stage, self.updates = self.fault.job.stage(self.folder), self.fault.job.updates(self.folder)
                self.at_s = round(time.monotonic() - started, 1)
                self.fault.strike(self.folder, self.process)
                self.struck_at, done = time.monotonic(), True
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
    """Start the job, strike, mend, continue until it is done, and compare with the undisturbed one."""
    started, job = time.monotonic(), fault.job
    if fault.not_possible:
        return Drill.without_hit(kind, job.verb, fault.stage, skipped=fault.not_possible)
    hit = Hit(world, fault, name)
    thread, found = _reading(hit.process)
    was_hit = hit.struck() and not fault.missed
    thread.join()
    code, said = found[0]
    killed = code == -signal.SIGKILL
    faults = [] if killed and code not in fault.ends else judged(code, said, fault.ends, fault.said)
    if was_hit and fault.must_end and code == 0 and time.monotonic() - hit.struck_at > AT_LAST_S:
        faults.append("went on as if nothing had happened")
    exit_codes, messages = [code], [_last_line(said)] if code not in (0, -signal.SIGKILL) else []
    faults += [f"left behind: {line}" for line in left_behind(hit.process, AFTER_KILL_S)]
    fault.heal(hit.folder)
    while not (exit_codes[-1] == 0 and job.done(hit.folder)) and len(exit_codes) < ATTEMPTS:
        resume = ["run.resume=true"] if (hit.folder / "config.yaml").exists() else []
        arguments = (job.verb, job.config, *_where(fault, name), *resume)
        process = world.start(*arguments, stderr=subprocess.PIPE, **variables(fault.place / TEMPORARY))
        code, said = ended(process)
        exit_codes.append(code)
        faults += judged(code, said, REFUSED, fault.mended)
        if code:
            messages.append(_last_line(said))
            fault.clear(hit.folder)
        faults += [f"left behind: {line}" for line in left_behind(process, AFTER_KILL_S)]
    done = exit_codes[-1] == 0 and job.done(hit.folder)
    faults += job.differences(hit.folder, calm) if done else ["could not be continued"]
    usual = kinds_left(world.folder / TEMPORARY)
    for first, names in kinds_left(fault.place / TEMPORARY).items():
        if first not in usual and not fault.kills:
            faults.append(f"temporary files: {', '.join(names)}")
    return Drill(
        kind=kind,
        verb=job.verb,
        aim=fault.stage,
        at_s=hit.at_s,
        found=was_hit,
        stage=hit.stage,
        updates=hit.updates,
        exit_codes=exit_codes,
        faults=faults,
        seconds=round(time.monotonic() - started, 1),
        messages=messages,
    )


def ended(process: Any) -> tuple[int, str]:
    """Wait for a command and return its exit code and stderr; one that hangs is killed with all, and counts as -1."""
    try:
        _, said = process.communicate(timeout=TIMEOUT_S)
    except Exception:  # subprocess.TimeoutExpired, or a pipe that a killed child keeps open
        kill(*marked(process), psutil.Process(process.pid))
        process.wait()
        return -1, ""
    return int(process.returncode), said


def judged(code: int, said: str, codes: tuple[int, ...], expected: str) -> list[str]:
    """Return what is wrong with how a command has ended: with 0, or with one of `codes` and the expected message."""
    if code == 0:
        return []
    faults = [] if code in codes else [f"exit code {code}"]
    if (at := said.find("Traceback (most recent call last)")) >= 0:
        faults.append(f"a traceback was printed: {said[max(0, at - SHOWN) : at + 3 * SHOWN]}")
    if not re.search(expected, said):
        faults.append(f"the message is not as expected: {_last_line(said)!r}")
    return faults


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else ""
