"""Ctrl-C ends a command for certain: by an exception where that suffices, by leaving at once where something hangs.

An exception may be raised where a library drops it, or where it leaves a lock behind that others wait for: after one
Ctrl-C in sixty while Ray Data worked a command never came to its end. So a thread is told of every SIGINT by the
interpreter's own C handler, whoever handles it in Python (Ray Train does while it trains), and sees to the end.
"""

import atexit
import json
import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import NoReturn

EXIT_INTERRUPTED = 130
GRACE_S = 120.0
"""Seconds in which a command must have ended itself after Ctrl-C."""
AGAIN_S = 1.0
"""Seconds after which another Ctrl-C is meant as one: some senders deliver one twice."""
_SHOW_CURSOR = "\x1b[?25h"


def see_to_the_end() -> None:
    """Let a second Ctrl-C leave at once, and a command too that has not ended in `GRACE_S` after the first.

    Where interrupts are ignored, as in the background of a shell, nothing changes.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        told, tells = os.pipe()
        os.set_blocking(tells, False)
        threading.Thread(target=_watch, args=(told,), name="interrupts", daemon=True).start()
        signal.set_wakeup_fd(tells, warn_on_full_buffer=False)


def leave() -> NoReturn:
    """End the process after an interrupt, without waiting for threads of libraries, which may crash at its end."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # its reader has gone, or it is closed
            stream.flush()
    os._exit(EXIT_INTERRUPTED)


def _watch(told: int) -> None:
    first: float | None = None
    while True:
        left = None if first is None else max(0.0, first + GRACE_S - time.monotonic())
        if not select.select((told,), (), (), left)[0]:
            _drop(f"something still hangs {GRACE_S:g} seconds after an interrupt")
        if signal.SIGINT not in os.read(told, 64):
            continue
        if first is not None and time.monotonic() - first >= AGAIN_S:
            _drop("interrupted twice")
        first = first or time.monotonic()


def _drop(why: str) -> NoReturn:
    # the objects that usually print may be locked, and nobody may read what is written
    text = f"{why}: leaving at once; what runs on without this process ends by itself"
    line = json.dumps({"event": "error", "message": text}) if "--json" in sys.argv else f"error: {text}"
    with suppress(OSError, ValueError):
        if select.select((), (2,), (), 1)[1]:
            os.write(2, f"{_SHOW_CURSOR if os.isatty(2) else ''}{line}\n".encode())
    os._exit(EXIT_INTERRUPTED)
