"""Ctrl-C and SIGTERM end a command for certain: by an exception where that suffices, else by leaving at once.

SIGTERM, which schedulers send before they kill, does what Ctrl-C does: workers end, the tracked run is closed, the
command to go on with is said; only the exit code is another.

An exception may be raised where a library drops it, or where it leaves a lock behind that others wait for: after one
Ctrl-C in sixty while Ray Data worked a command never came to its end. So a thread is told of every signal by the
interpreter's own C handler, whoever handles it in Python (Ray Train does while it trains), and sees to the end.
"""

import _thread
import atexit
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

EXIT_GIVEN_UP = 1
EXIT_CODES = EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143
GRACE_S = 120.0
"""Seconds in which a command must have ended itself after a signal."""
AGAIN_S = 1.0
"""Seconds after which another signal is meant as one: some senders deliver one twice."""
HEARD_S = 1.0
"""Seconds for the thread that is told of signals to be told."""
_ENDS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = "\x1b[?25h"
_came: set[int] = set()
_given_up: list[str] = []


def see_to_the_end() -> None:
    """Let SIGTERM do what Ctrl-C does; let a second signal leave at once, as a command that lives `GRACE_S` after one.

    Signals that are ignored, as Ctrl-C is in the background of a shell, stay so.
    """
    # Ray's native handler of SIGTERM would take ours away when Ray is left, and abort three seconds after a signal
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
    interrupts = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if terminates := signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)
    if interrupts or terminates:
        told, tells = os.pipe()
        os.set_blocking(tells, False)
        threading.Thread(target=_watch, args=(told,), name="interrupts", daemon=True).start()
        signal.set_wakeup_fd(tells, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=_reset_in_fork)


def give_up(why: str) -> None:
    """End the command as SIGTERM would, from any thread, but as one that failed: exit code 1, `why` is said."""
    if not _came:
        _given_up.append(why)
        _thread.interrupt_main(signal.SIGTERM)


def given_up() -> bool:
    """Tell whether the command was ended by `give_up`."""
    return bool(_given_up)


def how_it_ended() -> tuple[int, str]:
    """Return exit code and word for a command that a signal ends: `(130, "interrupted")` or `(143, "terminated")`.

    For one that was given up: 1 and why.
    """
    if _given_up:
        return EXIT_GIVEN_UP, _given_up[0]
    return (EXIT_TERMINATED, "terminated") if signal.SIGTERM in _came else (EXIT_INTERRUPTED, "interrupted")


def signalled(error: BaseException | None = None) -> bool:
    """Tell whether a signal has told the command to end: whatever fails after one, fails because of it.

    Args:
        error: what ended the command or a part of it; the thread that is told of signals may be later than Ctrl-C's.
    """
    return isinstance(error, KeyboardInterrupt) or bool(_came)


@contextmanager
def own_sigterm() -> Iterator[None]:
    """Put our handler of SIGTERM back after the block, and do what it would have done: Ray sets one that exits.

    Raises:
        KeyboardInterrupt: SIGTERM came in the block.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        deadline = time.monotonic() + HEARD_S
        while not signalled() and time.monotonic() < deadline:
            time.sleep(0.01)
        if signalled():
            raise KeyboardInterrupt from None
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def leave() -> NoReturn:
    """End the process after a signal, without waiting for threads of libraries, which may crash at its end."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # its reader has gone, or it is closed
            stream.flush()
    os._exit(how_it_ended()[0])


def _terminate(number: int, frame: Any) -> None:
    _came.add(signal.SIGTERM)
    handler = signal.getsignal(signal.SIGINT)  # Ray Train's while it trains, Ray Tune's while it searches
    (handler if callable(handler) else signal.default_int_handler)(number, frame)


def _reset_in_fork() -> None:
    """Tell the parent's thread nothing, and die of SIGTERM."""
    signal.set_wakeup_fd(-1)
    if signal.getsignal(signal.SIGTERM) is _terminate:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _watch(told: int) -> None:
    first: float | None = None
    while True:
        left = None if first is None else max(0.0, first + GRACE_S - time.monotonic())
        if not select.select((told,), (), (), left)[0]:
            word = "given up" if _given_up else how_it_ended()[1]
            _drop(f"something still hangs {GRACE_S:g} seconds after the command was {word}")
        came = os.read(told, 1)  # one signal at a time: two in one look are two
        if not any(number in came for number in _ENDS):
            continue
        _came.update(number for number in _ENDS if number in came)  # whatever the main thread is doing
        if first is not None and time.monotonic() - first >= AGAIN_S:
            _drop("told to end twice")
        first = first or time.monotonic()


def _drop(why: str) -> NoReturn:
    # the objects that usually print may be locked, and nobody may read what is written
    text = f"{why}: leaving at once; what runs on without this process ends by itself"
    line = json.dumps({"event": "error", "message": text}) if "--json" in sys.argv else f"error: {text}"
    with suppress(OSError, ValueError):
        if select.select((), (2,), (), 1)[1]:
            os.write(2, f"{_SHOW_CURSOR if os.isatty(2) else ''}{line}\n".encode())
    os._exit(how_it_ended()[0])
