"""Failures of storage as one kind of error, whichever library was writing: the path, and what the system said."""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cpl_ray.errors import StorageError

PROBE_BYTES = 1 << 20
_RUST = re.compile(r"\(os error (\d+)\)")  # safetensors and tokenizers keep the system's number in their text
_TORCH = re.compile(r"PytorchStreamWriter failed|\. unexpected pos \d|iostream error")  # torch does not keep it at all
_ADVICE = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some space there, or have the quota raised",
    errno.EROFS: "have it mounted writable",
    errno.EIO: "look for what is wrong with it in the system's log",
}


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn what fails in the block because of storage into an OSError with number, reason and file name.

    Args:
        path: what is written; named where the error itself names no file.

    Raises:
        OSError: writing failed.
    """
    try:
        yield
    except Exception as error:
        known = _as_os_error(error, Path(path))
        if known is None:
            raise
        raise known from error


def _as_os_error(error: Exception, path: Path) -> OSError | None:
    """Return a failure of storage with all that is known of it; None for any other error, and for one that is whole."""
    if isinstance(error, OSError):
        if error.errno is None or error.filename is not None:
            return None
        return OSError(error.errno, error.strerror, str(path))
    if found := _RUST.search(str(error)):
        code = int(found[1])
    elif _TORCH.search(str(error)):
        code = _found_out(path if path.is_dir() else path.parent)
    else:
        return None
    return OSError(code, os.strerror(code), str(path))


def try_writing(folder: Path, num_bytes: int = 3) -> None:
    """Write a file of its own into `folder`, flush it to disk and delete it.

    Raises:
        OSError: that cannot be done; nothing is left.
    """
    probe = folder / f".{secrets.token_hex(4)}.part-probe"
    try:
        with open(probe, "xb") as stream:
            stream.write(bytes(num_bytes))
            stream.flush()
            os.fsync(stream.fileno())
    finally:
        with suppress(OSError):  # what hinders writing may hinder deleting
            probe.unlink(missing_ok=True)


def _found_out(folder: Path) -> int:
    """Return the system's number for what hinders writing into `folder`; EIO if nothing does any more."""
    try:
        try_writing(folder, PROBE_BYTES)
    except OSError as error:
        return error.errno or errno.EIO
    return errno.EIO


def storage_error(error: OSError) -> StorageError | None:
    """Return the message for a failure of storage; None where it is another one (a missing file, a connection)."""
    if error.errno not in _ADVICE or error.filename is None:
        return None
    return _said(str(error.filename), error.errno)


def refusal(folder: Path, num_bytes: int) -> StorageError | None:
    """Return why `num_bytes` cannot be written into `folder`, an existing one; None if nothing speaks against it.

    A broken device may work again at the next try, so it is no reason here.
    """
    try:
        try_writing(folder)
        usage = shutil.disk_usage(folder)
    except OSError as error:
        return _said(str(folder), error.errno) if error.errno in _ADVICE and error.errno != errno.EIO else None
    if usage.total == 0 or usage.free >= num_bytes:  # some network file systems do not tell their size
        return None
    return _said(str(folder), errno.ENOSPC, f" ({num_bytes:,} bytes are needed, {usage.free:,} are free)")


def _said(path: str, code: int, more: str = "") -> StorageError:
    return StorageError(f"cannot write {path}: {os.strerror(code)}{more}; {_ADVICE[code]}, then continue the run")
