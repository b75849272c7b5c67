"""Ctrl-C and SIGTERM end a command, also where something drops their exception or hangs; each in an own process."""

import signal
import subprocess
import sys
import threading

import pytest

# as Ray Data has done: the exception is dropped, and a lock that everybody needs is kept
STUCK = """
import logging, signal, sys, threading, time
from pipelines import interrupts
interrupts.GRACE_S, interrupts.AGAIN_S = float(sys.argv[1]), 0
signal.signal(signal.SIGINT, getattr(signal, sys.argv[2]))
interrupts.see_to_the_end()
logging._lock.acquire()
threading.Thread(target=logging.getLogger("x").isEnabledFor, args=(20,)).start()
while True:
    try:
        print("ready", flush=True)
        time.sleep(1000)
    except KeyboardInterrupt:
        print("dropped", flush=True)
"""
OTHER_HANDLER = """
import os, signal, sys, time
from pipelines import interrupts
interrupts.GRACE_S = float(sys.argv[1])
interrupts.see_to_the_end()
signal.signal(signal.SIGINT, lambda *_: print("handled", flush=True))
os.set_blocking(2, False)
try:
    while os.write(2, bytes(4096)):
        pass
except BlockingIOError:
    os.set_blocking(2, True)
print("ready", flush=True)
time.sleep(1000)
"""
WITH_RAY = """
import signal, sys, time
from typing import Any
from pipelines import interrupts
from pipelines.console import Outcome, execute
import typer
def work() -> dict[str, Any]:
    with interrupts.own_sigterm():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as ray.init does
        if sys.argv[1] == "starting":
            wait()
    return wait()
def wait() -> dict[str, Any]:
    print("ready", flush=True)
    time.sleep(1000)
    return {}
interrupts.HEARD_S = 60
interrupts.see_to_the_end()
try:
    execute(Outcome("env"), work, print)
except typer.Exit as ended:
    sys.exit(ended.exit_code)
"""
FORKING = """
import os, signal, time
from pipelines import interrupts
interrupts.GRACE_S = 0.1
interrupts.see_to_the_end()
told, tells = os.pipe()
child = os.fork()
if not child:
    os.write(tells, b"ready")
    time.sleep(1000)
os.read(told, 5)
os.kill(child, signal.SIGTERM)
print(os.WTERMSIG(os.waitpid(child, 0)[1]), flush=True)
time.sleep(0.5)
print(interrupts.how_it_ended()[1])
"""
LEAVING = """
import atexit, sys, threading
from pipelines import interrupts
atexit.register(print, "at the end")
threading.Thread(target=threading.Event().wait).start()  # an exit would wait for it
sys.stdout.write("said, ")
interrupts.leave()
"""


def start(code: str, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", code, *arguments]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    watch = threading.Timer(120, process.kill)
    watch.daemon = True
    watch.start()
    return process


def ready(process: "subprocess.Popen[str]", line: str = "ready") -> None:
    assert process.stdout is not None
    assert process.stdout.readline().strip() == line


@pytest.mark.parametrize(
    ("interrupts", "number", "code", "word"),
    [
        ("default_int_handler", signal.SIGINT, 130, "interrupted"),
        ("default_int_handler", signal.SIGTERM, 143, "terminated"),
        ("SIG_IGN", signal.SIGTERM, 143, "terminated"),
    ],
)
def test_what_hangs_after_a_signal_is_left(interrupts: str, number: signal.Signals, code: int, word: str) -> None:
    process = start(STUCK, "4", interrupts)
    ready(process)
    process.send_signal(number)
    ready(process, "dropped")
    err = process.communicate()[1]
    assert process.returncode == code
    assert err.startswith(f"error: something still hangs 4 seconds after the command was {word}: leaving at once")


@pytest.mark.parametrize("moment", ["starting", "started"])
def test_sigterm_is_ours_while_ray_starts_and_after(moment: str) -> None:
    process = start(WITH_RAY, moment)
    ready(process)
    process.send_signal(signal.SIGTERM)
    err = process.communicate()[1]
    assert (process.returncode, err) == (143, "error: terminated\n")


def test_a_second_ctrl_c_leaves_at_once() -> None:
    process = start(STUCK, "1000", "default_int_handler")
    ready(process)
    process.send_signal(signal.SIGINT)
    ready(process, "dropped")
    process.send_signal(signal.SIGINT)
    assert "told to end twice" in process.communicate()[1]
    assert process.returncode == 130


def test_who_handles_interrupts_in_python_does_not_matter_nor_does_a_full_pipe() -> None:
    process = start(OTHER_HANDLER, "4")
    assert process.stderr is not None
    ready(process)
    process.send_signal(signal.SIGINT)
    ready(process, "handled")
    assert process.wait() == 130


def test_a_forked_process_dies_for_itself() -> None:
    assert start(FORKING).communicate() == ("15\ninterrupted\n", "")


def test_ignored_interrupts_stay_ignored() -> None:
    process = start(STUCK, "0.1", "SIG_IGN")
    ready(process)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.kill()
    assert process.communicate()[0] == ""


def test_leaving_runs_what_must_run_at_the_end_and_waits_for_no_thread() -> None:
    process = start(LEAVING)
    out, err = process.communicate()
    assert (process.returncode, out, err) == (130, "said, at the end\n", "")
