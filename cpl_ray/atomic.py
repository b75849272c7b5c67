"""Files and folders that appear whole or not at all.

They are written under a hidden temporary name beside their place, flushed to disk and then renamed, so a reader (and a
resumed run) sees the old content or the new content, never a part of it.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cpl_ray.storage import writing

_PART = ".part-"


def _sibling(path: Path) -> Path:
    """Return a hidden, unused name in the folder of `path` (same file system, so that renaming is atomic)."""
    return path.with_name(f".{path.name}{_PART}{os.getpid()}-{secrets.token_hex(4)}")


def flush_names(folder: Path) -> None:
    """Make renames inside `folder` survive a power loss, where the file system knows how."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:  # some network file systems cannot sync a folder; the rename itself stays atomic
        pass
    finally:
        os.close(handle)


def atomic_write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` whole or not at all, replacing an older file. Missing parent folders are made.

    Raises:
        OSError: the place is not writable or full; an older file at `path` is then untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _sibling(path)
    try:
        with writing(path):
            with open(part, "xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, path)
    except BaseException:
        with suppress(OSError):  # what hindered writing may hinder deleting; the first failure is the one to be told
            part.unlink(missing_ok=True)
        raise
    flush_names(path.parent)


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `path` whole or not at all; see `atomic_write_bytes`."""
    atomic_write_bytes(path, text.encode("utf-8"))


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path` which takes its name once the block has ended without error.

    An older folder at `path` is replaced then; after an error it is untouched and the temporary folder is deleted.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _sibling(path)
    part.mkdir()
    try:
        with writing(path):
            yield part
            flush_files(part)
            if path.exists():
                old = _sibling(path)
                os.replace(path, old)
                try:
                    os.replace(part, path)
                except OSError:
                    os.replace(old, path)
                    raise
                shutil.rmtree(old, ignore_errors=True)  # the new one is there; a resumed run deletes the rest
            else:
                os.replace(part, path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    flush_names(path.parent)


def flush_files(folder: Path) -> None:
    """Make all files in `folder` and below, and their names, survive a power loss.

    Raises:
        OSError: the storage could not take them.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as stream, writing(path):
                os.fsync(stream.fileno())
        elif path.is_dir():
            flush_names(path)
    flush_names(folder)


def remove_leftovers(folder: Path) -> list[Path]:
    """Delete what killed writers left in `folder` and below; only call while nothing writes there.

    Returns:
        The deleted paths.
    """
    found = [path for path in sorted(folder.rglob(f".*{_PART}*")) if path.exists()]
    for path in found:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return found
