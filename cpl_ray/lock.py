"""One process at a time per run folder, by an advisory lock that the system releases when the process dies."""

import fcntl
from pathlib import Path
from typing import IO

from cpl_ray.errors import ConfigError

LOCK_NAME = ".lock"

_held: dict[Path, IO[bytes]] = {}


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
