"""Ctrl-C ends a command for certain: by an exception where that suffices, by leaving at once where something hangs.

An exception may be raised where a library drops it, or where it leaves a lock behind that others wait for: after one
Ctrl-C in sixty while Ray Data worked a command never came to its end.
"""

import atexit
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import NoReturn

EXIT_INTERRUPTED = 130
GRACE_S = 120.0
"""Seconds in which a command must have ended itself after Ctrl-C."""
_asked = threading.Event()


def take_over() -> None:
    """Let Ctrl-C be a KeyboardInterrupt, a second one leave at once, and one that has not ended in `GRACE_S` too.

    Where interrupts are ignored, as in the background of a shell, they stay so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # now, since a handler that starts a thread may wait for a lock that the code it interrupts holds
        threading.Thread(target=_watch, name="interrupts", daemon=True).start()
        signal.signal(signal.SIGINT, _interrupt)


def leave() -> NoReturn:
    """End the process after an interrupt, without waiting for threads of libraries, which may crash at its end."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # its reader has gone, or it is closed
            stream.flush()
    os._exit(EXIT_INTERRUPTED)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    if _asked.is_set():
        _drop("interrupted twice")
    _asked.set()
    raise KeyboardInterrupt


def _watch() -> None:
    _asked.wait()
    time.sleep(GRACE_S)
    _drop(f"something still hangs {GRACE_S:g} seconds after an interrupt")


def _drop(why: str) -> NoReturn:
    # the objects that usually print may be locked
    with suppress(OSError):
        os.write(2, f"error: {why}: leaving at once; what runs on without this process ends by itself\n".encode())
    os._exit(EXIT_INTERRUPTED)
