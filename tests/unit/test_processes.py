"""What tests end processes with, on processes that come and go meanwhile."""

import subprocess
import sys
import time

import psutil

from tests.processes import command_line, kill, kill_tree, lives

RESTLESS = "while :; do /bin/true; done & while :; do /bin/true; done & echo ready; wait"
"""Two shells below one, whose children live for a millisecond."""


def test_a_tree_is_killed_whose_processes_come_and_go() -> None:
    for _ in range(20):
        process = subprocess.Popen(["sh", "-c", RESTLESS], stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        below = psutil.Process(process.pid).children()
        kill_tree(process.pid)
        process.communicate(timeout=60)  # nobody holds the pipe any more
        deadline = time.monotonic() + 30
        while any(map(lives, below)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(below) >= 2
        assert not any(map(lives, below))


def test_a_process_that_has_ended_is_neither_alive_nor_an_error() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    found = psutil.Process(process.pid)
    process.wait(60)
    kill(found)
    kill_tree(process.pid)
    assert not lives(found)
    assert command_line(found) == ""
