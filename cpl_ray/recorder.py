"""Append records to a run's metrics.jsonl, without a duplicate step after a resume."""

import json
import time
from pathlib import Path
from typing import TextIO

from cpl_ray.rundir import atomic_write_text


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
        """Append one record and flush it, so that a follower sees it at once."""
        if self._stream is not None:
            record = {"step": step, "kind": kind, "time": round(time.time(), 3), **values}
            self._stream.write(json.dumps(record) + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()


def _lines_up_to(path: Path, step: int) -> list[str]:
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # torn by the crash
            continue
        if record["step"] <= step and line.endswith("\n"):
            kept.append(line)
    return kept
