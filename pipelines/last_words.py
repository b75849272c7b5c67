"""What is said of a command that no longer can: it was killed, or Ray's library left the program with its raylet.

A small process holds one end of a pipe. It reads a word when the block ends, in whatever way, and says nothing; it
reads the end of the pipe alone when this process is gone.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_WAITING = """
import signal, sys
for number in (signal.SIGINT, signal.SIGTERM):  # whoever stops a job may tell all its processes
    signal.signal(number, signal.SIG_IGN)
sys.stdin.buffer.read() or sys.stderr.write(sys.argv[1])
"""
_SHOW_CURSOR = "\x1b[?25h"
_TEXT = "the command did not come to its end (killed, left at once, or its Ray was lost)"


@contextmanager
def last_words(again: str | None, *, as_json: bool = False) -> Iterator[None]:
    """Let it be said on stderr if this process is lost in the block.

    Args:
        again: the command that continues; None: nothing can be continued.
        as_json: say it as an event.
    """
    text = _TEXT + (f"; continue with: {again}" if again else "")
    line = json.dumps({"event": "error", "message": text}) if as_json else f"error: {text}"
    cursor = _SHOW_CURSOR if sys.stderr.isatty() else ""
    command = [sys.executable, "-I", "-S", "-c", _WAITING, f"{cursor}{line}\n"]
    # in a session of its own: Ctrl-C is not meant for it
    waiting = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        yield
    finally:
        with suppress(OSError):  # it was killed itself
            waiting.communicate(b"ended")
