"""What is said of a command that was killed, by real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

BLOCK = """
import sys, time
from pipelines.last_words import last_words
with last_words("cpl run a.yaml" if sys.argv[2] else None, as_json=sys.argv[3] == "json"):
    print("ready", flush=True)
    if sys.argv[1] == "sleep":
        time.sleep(1000)
    if sys.argv[1] == "raise":
        1 / 0
    if sys.argv[1] == "exit":
        sys.exit(3)
"""


def start(what: str, *, again: bool = True, as_json: bool = False) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", BLOCK, what, "again" if again else "", "json" if as_json else ""]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("again", [True, False])
def test_of_a_killed_command_it_is_said_how_to_go_on(again: bool) -> None:
    process = start("sleep", again=again)
    process.kill()
    said = process.communicate(timeout=60)[1]
    assert said == "error: the command did not come to its end (killed, left at once, or its Ray was lost)" + (
        "; continue with: cpl run a.yaml\n" if again else "\n"
    )


def test_programs_read_an_event() -> None:
    process = start("sleep", as_json=True)
    process.kill()
    event = json.loads(process.communicate(timeout=60)[1])
    assert event["event"] == "error"
    assert event["message"].endswith("; continue with: cpl run a.yaml")


@pytest.mark.parametrize(("what", "code"), [("end", 0), ("exit", 3), ("raise", 1)])
def test_a_command_that_ends_itself_speaks_for_itself(what: str, code: int) -> None:
    process = start(what)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert "did not come to its end" not in said
    assert ("ZeroDivisionError" in said) == (what == "raise")


def deaf(helper: psutil.Process) -> bool:
    """Tell whether a process ignores the signals by now; at first it is a copy of the command."""
    status = Path(f"/proc/{helper.pid}/status")
    if not status.exists():  # macOS: it has had the time of the lines above
        return True
    ignored = int(status.read_text(encoding="ascii").partition("SigIgn:")[2].split()[0], 16)
    return all(ignored >> (number - 1) & 1 for number in (signal.SIGINT, signal.SIGTERM))


def test_an_interrupt_of_the_whole_group_is_not_meant_for_it() -> None:
    process = start("sleep")
    helpers = psutil.Process(process.pid).children()
    deadline = time.monotonic() + 60
    while not all(map(deaf, helpers)) and time.monotonic() < deadline:
        time.sleep(0.01)
    for number in (signal.SIGINT, signal.SIGTERM):
        for helper in helpers:
            helper.send_signal(number)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert len(helpers) == 1
    assert "did not come to its end" not in said
    assert said.count("KeyboardInterrupt") == 1
