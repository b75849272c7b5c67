"""Ctrl-C ends a command, also where its exception was dropped or something hangs; each in a process of its own."""

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


def test_what_hangs_after_ctrl_c_is_left() -> None:
    process = start(STUCK, "1", "default_int_handler")
    ready(process)
    process.send_signal(signal.SIGINT)
    ready(process, "dropped")
    err = process.communicate()[1]
    assert process.returncode == 130
    assert err.startswith("error: something still hangs 1 seconds after an interrupt: leaving at once")


def test_a_second_ctrl_c_leaves_at_once() -> None:
    process = start(STUCK, "1000", "default_int_handler")
    ready(process)
    process.send_signal(signal.SIGINT)
    ready(process, "dropped")
    process.send_signal(signal.SIGINT)
    assert "interrupted twice" in process.communicate()[1]
    assert process.returncode == 130


def test_who_handles_interrupts_in_python_does_not_matter_nor_does_a_full_pipe() -> None:
    process = start(OTHER_HANDLER, "1")
    assert process.stderr is not None
    ready(process)
    process.send_signal(signal.SIGINT)
    ready(process, "handled")
    assert process.wait() == 130


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
