"""Append records to a run's metrics.jsonl, without a duplicate step after a resume."""

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from cpl_ray.atomic import atomic_write_text
from cpl_ray.metrics_log import parse_record
from cpl_ray.storage import writing


class Recorder:
    """Writes `{"step", "kind", "time", ...}` lines; the file keeps what happened up to the step it is opened at.

    Args:
        path: metrics.jsonl; None on ranks that do not write.
        step: updates done; later records of an earlier attempt are removed, they will be made again.
    """

    def __init__(self, path: Path | None, step: int) -> None:
        self._stream: TextIO | None = None
        if path is None:
            return
        kept = _lines_up_to(path, step) if path.exists() and step > 0 else []
        atomic_write_text(path, "".join(kept))
        self._stream = path.open("a", encoding="utf-8")

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Append one record and flush it, so that a follower sees it at once.

        Raises:
            OSError: it could not be written, or only a part of it; the next attempt removes that.
        """
        if self._stream is not None:
            record = {"step": step, "kind": kind, "time": round(time.time(), 3), **values}
            with writing(self._stream.name):
                self._stream.write(json.dumps(record) + "\n")
                self._stream.flush()

    def sync(self) -> None:
        """Bring everything to disk: a checkpoint must not survive a power loss that its records do not.

        Raises:
            OSError: the storage could not take it.
        """
        if self._stream is not None:
            with writing(self._stream.name):
                os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the file; what could not be written was told when it was tried."""
        if self._stream is not None:
            with suppress(OSError):
                self._stream.close()


def _lines_up_to(path: Path, step: int) -> list[str]:
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        record = parse_record(line)  # None: torn by the crash
        if record is not None and record.step <= step and line.endswith("\n"):
            kept.append(line)
    return kept
