"""One process at a time per run folder, by an advisory lock that the system releases when the process dies."""

import fcntl
import os
import struct
import sys
from pathlib import Path
from typing import IO

from cpl_ray.errors import ConfigError

LOCK_NAME = ".lock"

_held: dict[Path, IO[bytes]] = {}
_LOCKS_OF_THIS_MACHINE = Path("/proc/locks")
_FLOCK = "hhqqi"  # Linux's struct flock: l_type, l_whence, l_start, l_len, l_pid


def hold(folder: Path) -> None:
    """Keep `folder` for this process until it ends or calls `release`; holding it twice is the same as once.

    On file systems without locks nothing is kept and nothing is refused.

    Raises:
        ConfigError: another process holds it.
    """
    folder = folder.resolve()
    if folder in _held:
        return
    stream = open(folder / LOCK_NAME, "ab")  # noqa: SIM115 - stays open as long as the lock is held
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        raise ConfigError(
            f"run.name: {folder.name!r} in {folder.parent} is in use by another process; wait for it to end, "
            "or choose another run.name"
        ) from None
    except OSError:
        stream.close()
        return
    _held[folder] = stream


def release(folder: Path) -> None:
    """Let other processes use `folder` again; nothing happens where it is not held."""
    stream = _held.pop(folder.resolve(), None)
    if stream is not None:
        stream.close()


def is_held(folder: Path) -> bool | None:
    """Tell whether a process, this one included, holds `folder`; None where the system does not tell.

    Only asks: a lock taken for the test, even a shared one for a moment, could make a run that starts in that moment
    find its folder in use. The kernel's table shows the locks of this machine; F_GETLK asks the server of a network
    file system, which keeps `flock` as a lock on the whole file, for those of other machines.
    """
    try:
        status = os.stat(folder / LOCK_NAME)
    except OSError:
        return False
    if not sys.platform.startswith("linux"):
        return None
    try:
        table = _LOCKS_OF_THIS_MACHINE.read_text(encoding="ascii")
    except OSError:
        return None
    return any(_is_lock_on(line, status) for line in table.splitlines()) or _held_elsewhere(folder / LOCK_NAME)


def _is_lock_on(line: str, status: os.stat_result) -> bool:
    """Tell whether a line such as `1: FLOCK  ADVISORY  WRITE 4065 fe:00:2999552 0 EOF` is a lock on that file."""
    fields = line.split()
    if len(fields) < 6 or fields[1] != "FLOCK":  # `->` in its place: waits for a lock
        return False
    major, minor, inode = fields[5].split(":")
    device = (int(major, 16), int(minor, 16))
    # devices without a major number (overlay, btrfs) may be named otherwise there than by stat
    same_device = device == (os.major(status.st_dev), os.minor(status.st_dev)) or (
        device[0] == 0 and os.major(status.st_dev) == 0
    )
    return same_device and int(inode) == status.st_ino


def _held_elsewhere(path: Path) -> bool:
    try:
        with open(path, "rb") as stream:
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            found = fcntl.fcntl(stream, fcntl.F_GETLK, asked)
    except OSError:  # no locks on this file system, or the file has gone: nothing is held
        return False
    return bool(struct.unpack(_FLOCK, found)[0] != fcntl.F_UNLCK)
