"""Raw rows of files and data sets: JSONL, JSON, CSV, TSV, Parquet, `datasets`, with all the dirt of real files.

A row that cannot be decoded comes out as a `RawRow` with a reason and the rows after it are read on. Only where a file
as a whole gives no rows that can be told apart (a truncated Parquet file or JSON array) is there an error instead.
"""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpl_ray.cells import shown
from cpl_ray.errors import DataError

_RAW_LIMIT = 300
_MAX_UNCLOSED_QUOTES = 100
_PARQUET_BATCH = 1024
NO_FILE = "is a pipe, socket or device, which may never end; name a file"


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row of a file before it is understood.

    Attributes:
        number: 1-based: the line of a JSONL file (blank lines count, but are no rows), the record of any other file
            (the header of a CSV file does not count).
        values: The decoded row; meaningless where `reason` is set.
        reason: Why the row cannot be decoded, else None.
        raw: The row as text, shortened, for `rejected.jsonl`.
    """

    number: int
    values: Any = None
    reason: str | None = None
    raw: str = ""


def shortened(text: str) -> str:
    """Cut text to what a rejection keeps, and make it writable as UTF-8."""
    text = text if len(text) <= _RAW_LIMIT else text[:_RAW_LIMIT] + "…"
    return text.encode("utf-8", "replace").decode("utf-8")


def read_file(path: Path, columns: set[str]) -> Iterator[RawRow]:
    """Yield the rows of one file, by its suffix (one of `SUFFIXES`).

    Args:
        path: The file.
        columns: The columns worth decoding where that can be chosen (Parquet).

    Raises:
        DataError: the file as a whole is unreadable: truncated, UTF-16, no permission, not what its suffix says, or no
            file at all.
    """
    try:
        if is_no_file(path):
            raise DataError(f"{path} {NO_FILE}")
        yield from SUFFIXES[path.suffix.lower()](path, columns)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def is_no_file(path: Path) -> bool:
    """Tell whether something is there, links followed, that is neither a file nor a folder.

    Raises:
        OSError: that cannot be found out.
    """
    return path.exists() and not path.is_file() and not path.is_dir()


def _refuse_utf16(path: Path, start: bytes) -> None:
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path} is UTF-16 text; save it as UTF-8")


def _jsonl(path: Path, columns: set[str]) -> Iterator[RawRow]:
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, 1):
            if number == 1:
                _refuse_utf16(path, line)
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield _json_line(number, line)


def _json_line(number: int, line: bytes) -> RawRow:
    raw = shortened(line.decode("utf-8", "replace").rstrip("\r\n"))
    try:
        return RawRow(number, json.loads(line.decode("utf-8")), raw=raw)
    except UnicodeDecodeError as error:
        return RawRow(number, reason=f"not valid UTF-8 (byte {error.start + 1} of the line)", raw=raw)
    except RecursionError:
        return RawRow(number, reason="not valid JSON: nested too deeply", raw=raw)
    except ValueError as error:
        torn = "" if line.endswith(b"\n") else "; the last line has no end, the file may be cut off"
        return RawRow(number, reason=f"not valid JSON: {error}{torn}", raw=raw)


def _json(path: Path, columns: set[str]) -> Iterator[RawRow]:
    data = path.read_bytes()
    _refuse_utf16(path, data)
    # bytes that are not UTF-8 become lone surrogates, which reject their own row later and not the whole file
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape").strip()
    if not text:
        return
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text[0] == "{" and "\n" in text:  # JSON lines under the wrong suffix
            yield from _jsonl(path, columns)
            return
        raise DataError(
            f"{path} is not valid JSON ({error}); is it cut off? JSONL loses only the damaged row"
        ) from None
    if isinstance(content, dict):
        lists = [
            value for value in content.values() if isinstance(value, list) and value and isinstance(value[0], dict)
        ]
        # {"data": [rows]} is the usual wrapping; a chat row also holds one list of objects, under messages
        content = lists[0] if len(content) == 1 and len(lists) == 1 and "messages" not in content else [content]
    if not isinstance(content, list):
        raise DataError(f"{path} holds a {type(content).__name__}, not a list of rows")
    for number, values in enumerate(content, 1):
        yield RawRow(number, values, raw=_dumped(values))


def _dumped(values: Any) -> str:
    try:
        return shortened(json.dumps(values, ensure_ascii=False))
    except RecursionError:
        return "<nested too deeply>"


def _csv(path: Path, columns: set[str], *, delimiter: str = ",") -> Iterator[RawRow]:
    data = path.read_bytes()
    _refuse_utf16(path, data)
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    lines = list(io.StringIO(text, newline=""))
    csv.field_size_limit(sys.maxsize)  # the default refuses long passages
    records = _records(path, lines, delimiter)
    header: list[str] | None = None
    number = 0
    for cells, reason, raw in records:
        if header is None:
            header = _header(path, cells, reason)
            continue
        number += 1
        if reason is None and len(cells) != len(header):
            reason = f"the row has {len(cells)} cells, the header has {len(header)}"
        values = dict(zip(header, cells, strict=False))
        bad = next((name for name, cell in values.items() if _has_surrogate(cell)), None)
        if reason is None and bad is not None:
            reason = f"not valid UTF-8 (column {bad!r})"
        yield RawRow(number, values, reason, shortened(raw))


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text) if not text.isascii() else False


def _header(path: Path, cells: list[str], reason: str | None) -> list[str]:
    names = [cell.strip() for cell in cells]
    if reason is not None:
        raise DataError(f"{path}: the header line cannot be read: {reason}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: the header names a column twice: {', '.join(map(repr, twice))}")
    return names


def _records(path: Path, lines: list[str], delimiter: str) -> Iterator[tuple[list[str], str | None, str]]:
    """Yield (cells, reason, raw text) of every record; after a quote that never closes go on with the next line."""
    start, unclosed = 0, 0
    while start < len(lines):
        reader = csv.reader(iter(lines[start:]), delimiter=delimiter, strict=True)
        offset = start
        while True:
            before = offset + reader.line_num
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                after = offset + reader.line_num
                if "unexpected end of data" not in str(error):
                    yield [], f"line {before + 1} is not valid CSV: {error}", "".join(lines[before:after])
                    continue
                unclosed += 1
                if unclosed > _MAX_UNCLOSED_QUOTES:
                    raise DataError(
                        f"{path} is not valid CSV: more than {_MAX_UNCLOSED_QUOTES} quotes are never closed"
                    ) from None
                yield [], f"a quote opened in line {before + 1} is never closed; is the file cut off?", lines[before]
                start = before + 1
                break
            if cells and any(cell.strip() for cell in cells):
                yield cells, None, "".join(lines[before : offset + reader.line_num]).rstrip("\r\n")


def _tsv(path: Path, columns: set[str]) -> Iterator[RawRow]:
    yield from _csv(path, columns, delimiter="\t")


def _parquet(path: Path, columns: set[str]) -> Iterator[RawRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            others: dict[str, Any] = {name: None for name in names if name not in columns}
            wanted = [name for name in names if name in columns]
            for batch in file.iter_batches(_PARQUET_BATCH, columns=wanted):
                for i in range(batch.num_rows):
                    number += 1
                    yield _arrow_row(number, batch, i, others)
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:  # damaged metadata ends in any of these
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError(f"{path} is not a readable Parquet file (cut off or damaged?): {reason}") from None


def _arrow_row(number: int, batch: Any, i: int, others: dict[str, Any]) -> RawRow:
    """Decode one row; `others` names the columns that were not read, for messages."""
    try:
        values = {name: batch.column(j)[i].as_py() for j, name in enumerate(batch.schema.names)}
    except (ValueError, OverflowError) as error:  # text that is not UTF-8, a date beyond Python's
        return RawRow(number, reason=f"the row cannot be decoded: {shown(str(error), 120)}")
    return RawRow(number, others | values, raw=shortened(shown(values, _RAW_LIMIT)))


def read_dataset(dataset: Any, columns: set[str]) -> Iterator[RawRow]:
    """Yield the rows of a `datasets.Dataset`, decoding only the columns that are needed."""
    names = list(dataset.column_names)
    others: dict[str, Any] = {name: None for name in names if name not in columns}
    wanted = [name for name in names if name in columns]
    rows = _undecoded(dataset.with_format(None).select_columns(wanted)) if wanted else []
    for number, values in enumerate(rows, 1):
        yield RawRow(number, others | values, raw=shortened(shown(values, _RAW_LIMIT)))
    if not wanted:
        for number in range(1, len(dataset) + 1):
            yield RawRow(number, others)


def _undecoded(dataset: Any) -> Any:
    """Return a `datasets.Dataset` whose images are bytes, not opened: one damaged image would end the whole pass."""
    from datasets import Image

    for name, feature in dataset.features.items():
        if isinstance(feature, Image):
            dataset = dataset.cast_column(name, Image(decode=False))
    return dataset


SUFFIXES: dict[str, Callable[[Path, set[str]], Iterator[RawRow]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
    ".pq": _parquet,
}
"""Readers of the file formats, by suffix in lower case."""
