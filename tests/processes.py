"""Processes of this machine as tests see them: each may end between being found and being asked or hit."""

import signal
from contextlib import suppress

import psutil


def heed_interrupts() -> None:
    """Take SIGINT again where a shell has started this in its background: tests send it to what they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def lives(process: psutil.Process) -> bool:
    """Tell whether a process is there and has not ended; a zombie has."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def command_line(process: psutil.Process) -> str:
    """Return the command line of a process, empty if it has ended."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def kill(*processes: psutil.Process) -> None:
    """Kill processes, of which some may have ended by themselves."""
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            one.kill()


def kill_tree(pid: int) -> None:
    """Kill a process and all below it at once; they are stopped first, so that none starts another meanwhile."""
    stopped: set[psutil.Process] = set()
    while found := _tree(pid) - stopped:
        for one in found:
            with suppress(psutil.NoSuchProcess):
                one.suspend()
        stopped |= found
    kill(*stopped)


def _tree(pid: int) -> set[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        return {root, *root.children(recursive=True)}
    return set()
