"""Read a run's metrics.jsonl, also while another process appends to it or replaces it.

One JSON object a line: `{"step": int, "kind": str, "time": unix seconds, ...floats}`; kinds are `train`, `eval`,
`layers` and `layer_flips` (by layer). A line counts once it ends with a newline; before that it may be torn.
"""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cpl_ray.whole_numbers import whole_number

_NOT_VALUES = ("step", "kind", "time")
_BLOCK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Record:
    """The numbers of one update or one evaluation, in the order written; `time` in unix seconds."""

    kind: str
    step: int
    time: float
    values: dict[str, float]


def parse_record(line: str) -> Record | None:
    """Return the record of one line, or None when the line holds none (torn by a crash, or not written by us)."""
    try:
        row: Any = json.loads(line, parse_int=whole_number)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("kind"), str) or not isinstance(row.get("step"), int):
        return None
    time = row.get("time")
    values = {
        key: float(value)
        for key, value in row.items()
        if key not in _NOT_VALUES and isinstance(value, int | float) and not isinstance(value, bool)
    }
    return Record(row["kind"], row["step"], float(time) if isinstance(time, int | float) else 0.0, values)


class Tail:
    """Follow the file: each `poll` returns the records completed since the last one.

    A file that was replaced, cut short or rewritten is noticed (other file, shorter, or other bytes before our place)
    and read from its start again; records that were returned before then come again, the caller tells them by step.
    """

    _GUARD_BYTES = 256

    def __init__(self, path: Path) -> None:
        """Start at the beginning of `path`, which need not exist yet."""
        self._path = path
        self._inode: int | None = None
        self._offset = 0
        self._guard = b""

    def poll(self) -> list[Record]:
        """Return the new records; an absent or unreadable file has none."""
        try:
            with open(self._path, "rb") as stream:
                inode = os.fstat(stream.fileno()).st_ino
                if inode != self._inode or not self._same_before(stream):
                    self._inode, self._offset, self._guard = inode, 0, b""
                stream.seek(self._offset)
                data = stream.read()
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        if not whole:
            return []
        self._offset += len(whole)
        self._guard = (self._guard + whole)[-self._GUARD_BYTES :]
        parsed = (parse_record(line.decode("utf-8", errors="replace")) for line in whole.splitlines())
        return [record for record in parsed if record is not None]

    def _same_before(self, stream: BinaryIO) -> bool:
        """Tell whether the bytes just before our place are still those read last time."""
        stream.seek(self._offset - len(self._guard))
        return stream.read(len(self._guard)) == self._guard


def last_record(path: Path, kind: str) -> Record | None:
    """Return the newest record of one kind, reading the file from its end; None if there is none."""
    try:
        with open(path, "rb") as stream:
            end = stream.seek(0, os.SEEK_END)
            tail = b""
            while end:
                start = max(0, end - _BLOCK_BYTES)
                stream.seek(start)
                tail = stream.read(end - start) + tail
                end = start
                whole = tail[: tail.rfind(b"\n") + 1]
                lines = whole.splitlines()[1 if start else 0 :]  # the first may begin before what was read
                for line in reversed(lines):
                    record = parse_record(line.decode("utf-8", errors="replace"))
                    if record is not None and record.kind == kind:
                        return record
    except OSError:
        pass
    return None


def read_records(path: Path, kind: str) -> list[Record]:
    """Return all records of one kind in order of step, the last written one where a step was replayed."""
    by_step = {record.step: record for record in Tail(path).poll() if record.kind == kind}
    return [by_step[step] for step in sorted(by_step)]


def curve(records: Sequence[Record], key: str, of: str | None = None) -> list[tuple[int, float]]:
    """Return (step, value) of `key` where it is finite, divided by the count `of` (where above 0) if one is named."""
    points = []
    for record in records:
        value = record.values.get(key, math.nan)
        if of is not None:
            total = record.values.get(of, 0.0)
            value = value / total if total > 0 else math.nan
        if math.isfinite(value):
            points.append((record.step, value))
    return points
