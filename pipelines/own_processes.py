"""The processes of a Ray that a command has started on this machine: none outlives the command.

Ray ends those that it knows, and the others find out by themselves. One dashboard in some two hundred left a process
behind that did not, and a worker that is just starting when its head goes asks for it a minute long.
"""

import time
from contextlib import suppress

import psutil

PATIENCE_S = 10.0
"""Seconds in which the processes of a Ray that was stopped may end by themselves."""
_LOOK_S = 0.05
_WORKER = "/ray/_private/workers/"


def of_session(folder: str) -> list[psutil.Process]:
    """Return the living processes of a Ray session that this process has started.

    Args:
        folder: the session's folder, which Ray names in the command line of all that it starts. Workers change theirs
            when they have started; by then they are known to a raylet, and its children.
    """
    found: set[psutil.Process] = set()
    for one in psutil.Process().children():
        if folder in _command(one):
            found |= {one, *_descendants(one)}
    for one in psutil.process_iter():  # workers whose raylet has gone before they had started
        if folder in (command := _command(one)) and _WORKER in command:
            found.add(one)
    return list(found)


def see_off(processes: list[psutil.Process], patience_s: float = PATIENCE_S) -> list[psutil.Process]:
    """Wait for processes to end, kill those that do not, and return these."""
    staying = _wait(processes, patience_s)
    for one in staying:
        with suppress(psutil.Error):
            one.kill()
    _wait(staying, patience_s)
    return staying


def _wait(processes: list[psutil.Process], patience_s: float) -> list[psutil.Process]:
    """Wait until no process does anything any more; return those that do."""
    deadline = time.monotonic() + patience_s
    while (left := [one for one in processes if _lives(one)]) and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
    return left


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        # an orphan that has ended stays a zombie where the first process of a container takes no notice of it
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return process.children(recursive=True)
    return []


def _command(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""
