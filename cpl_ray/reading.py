"""Sources of questions: find the files, read every row, set the unusable ones aside with file, row and reason."""

import glob
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cpl_ray.bulk import uncollected
from cpl_ray.cells import RowError, normalised, shown
from cpl_ray.config import DataConfig
from cpl_ray.errors import ConfigError, DataError
from cpl_ray.files import SUFFIXES, RawRow, read_dataset, read_file, shortened
from cpl_ray.items import COLUMNS, Item, parse_row
from cpl_ray.rundir import atomic_write_text

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")
_SHOWN_REASONS = 3


@dataclass(frozen=True, slots=True)
class Rejected:
    """One row that was set aside.

    Attributes:
        file: The file as it was found, or the `datasets` name with its split.
        row: 1-based: line of a JSONL file, record of any other (without the header of a CSV file).
        reason: Why, with the offending value.
        raw: The row as text, shortened.
        kind: `duplicate` rows repeat a question with the same answer; they do not count against the error budget.
    """

    file: str
    row: int
    reason: str
    raw: str
    kind: Literal["malformed", "duplicate"] = "malformed"


@dataclass(frozen=True, slots=True)
class ReadResult:
    """What a source held: every row is either an item or a rejection.

    Attributes:
        items: Usable items in the order of the files and rows; ids are unique, and unless duplicates were to be kept no
            question stands twice with the same answer.
        rejected: Rows set aside, in the same order.
        num_rows: Rows read, usable or not; blank lines are no rows.
        places: File and row of each item by id.
    """

    items: list[Item] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    num_rows: int = 0
    places: dict[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def num_malformed(self) -> int:
        """Rejected rows that count against the error budget."""
        return sum(row.kind == "malformed" for row in self.rejected)


def read_items(source: str | list[str], data: DataConfig, *, name: str, keep_duplicates: bool = False) -> ReadResult:
    """Read all items of a source.

    Args:
        source: A file (JSONL, JSON, CSV, TSV, Parquet), a folder or glob of them, a folder of `Dataset.save_to_disk`,
            a `datasets` name (`owner/name` or `owner/name:configuration`), or a list of these.
        data: Row format, column names and split.
        name: The configuration key of the source, for messages and ids (`data.items`).
        keep_duplicates: Keep rows that repeat a question with the same answer: brought sets are used whole.

    Returns:
        Items and rejections. The caller writes the rejections and then calls `check_budget`.

    Raises:
        ConfigError: nothing is found there, or `data.columns` renames a column that does not exist.
        DataError: a file is unreadable as a whole, or there is not one row.
    """
    _check_columns(data.columns)
    columns = {data.columns.get(column, column) for column in COLUMNS}
    result = ReadResult()
    collector = _Collector(result, keep_duplicates)
    num_rows = 0
    sources = [source] if isinstance(source, str) else source
    # ids of rows without one must differ between the sources of a run, hence the key in them
    prefix = name.rsplit(".", 1)[-1]
    seen_labels: set[str] = set()
    with uncollected():
        for label, stem, folder, rows in _open_all(sources, data, name, columns):
            stem = stem if stem not in seen_labels else f"{stem}-{len(seen_labels) + 1}"
            seen_labels.add(stem)
            for raw in rows:
                num_rows += 1
                collector.add(label, raw, data, f"{prefix}-{stem}-{raw.number}", folder)
    if num_rows == 0:
        raise DataError(f"{name}: no rows in {', '.join(sources) or 'an empty list of sources'}")
    return replace(result, num_rows=num_rows)


class _Collector:
    """Sorts rows into items and rejections and remembers what it has seen."""

    def __init__(self, result: ReadResult, keep_duplicates: bool) -> None:
        self.keep_duplicates = keep_duplicates
        self.items = result.items
        self.rejected = result.rejected
        self.places = result.places
        self.questions: dict[tuple[str, str], str] = {}

    def add(self, label: str, raw: RawRow, data: DataConfig, default_id: str, folder: Path | None) -> None:
        """Parse one row and file it under `items` or `rejected`."""
        try:
            if raw.reason is not None:
                raise RowError(raw.reason)
            item = parse_row(
                raw.values,
                format=data.format,
                columns=data.columns,
                row_number=raw.number,
                default_id=default_id,
                folder=folder,
                max_pixels=data.max_image_pixels,
            )
        except RowError as error:
            self._reject(label, raw, str(error), "malformed")
            return
        question = (item.question_key(), normalised(item.target))
        if question in self.questions and not self.keep_duplicates:
            self._reject(label, raw, f"duplicate of {self.questions[question]}", "duplicate")
        elif item.id in self.places:
            self._reject(
                label,
                raw,
                f"the id {item.id!r} is taken by {' row '.join(map(str, self.places[item.id]))}",
                "malformed",
            )
        else:
            self.questions[question] = item.id
            self.places[item.id] = (label, raw.number)
            self.items.append(item)

    def _reject(self, label: str, raw: RawRow, reason: str, kind: Literal["malformed", "duplicate"]) -> None:
        text = raw.raw or shortened(shown(raw.values, 300))
        self.rejected.append(Rejected(label, raw.number, shortened(reason), text, kind))


def write_rejected(path: Path, rejected: list[Rejected]) -> None:
    """Write the rejections as JSON lines, whole or not at all; an empty list gives an empty file."""
    lines = (json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rejected)
    atomic_write_text(path, "".join(lines))


def check_budget(result: ReadResult, data: DataConfig, name: str, path: Path) -> None:
    """Stop when too many rows of a source are malformed or none is left.

    Args:
        result: What `read_items` returned.
        data: Holds the budget `max_rejected`.
        name: The configuration key of the source.
        path: Where the rejections stand, for the message.

    Raises:
        DataError: over budget, or no usable row.
    """
    malformed = result.num_malformed
    if result.items and malformed <= data.max_rejected * result.num_rows:
        return
    reasons = [f"{row.file} row {row.row}: {row.reason}" for row in result.rejected if row.kind == "malformed"][
        :_SHOWN_REASONS
    ]
    allowed = f"data.max_rejected={data.max_rejected:g} allows {int(data.max_rejected * result.num_rows + 1e-9)}"
    raise DataError(
        f"{name}: {malformed} of {result.num_rows} rows are malformed, {allowed}"
        f"{'' if result.items else ', and no row is usable'}. First: {'; '.join(reasons)}. All of them: {path}"
    )


def separate_ids(sets: Mapping[str, list[Item]]) -> dict[str, list[Item]]:
    """Make ids unique across sources: an id that two sets use gets its set's name in front, as `name/id`.

    Sets that a user brings are often numbered from 1 each; verdicts are kept by id.
    """
    counts: dict[str, int] = {}
    for items in sets.values():
        for item in items:
            counts[item.id] = counts.get(item.id, 0) + 1
    return {
        name: [replace(item, id=f"{name}/{item.id}") if counts[item.id] > 1 else item for item in items]
        for name, items in sets.items()
    }


def _check_columns(columns: Mapping[str, str]) -> None:
    unknown = sorted(set(columns) - set(COLUMNS))
    if unknown:
        raise ConfigError(f"data.columns: {unknown[0]!r} is no standard column; valid are {', '.join(COLUMNS)}")


def _open_all(
    sources: list[str], data: DataConfig, name: str, columns: set[str]
) -> Iterator[tuple[str, str, Path | None, Iterator[RawRow]]]:
    """Yield (name for messages, name for ids, folder, rows) of every file; all sources are looked up first.

    A data set has no folder.
    """
    found: list[tuple[str, list[Path] | Any]] = [(source, _find(source, data, name)) for source in sources]
    for source, place in found:
        if isinstance(place, list):
            for path in place:
                yield str(path), path.stem, path.parent, read_file(path, columns)
        else:
            label = f"{source}[{data.dataset_split}]"
            yield label, Path(source).name.replace(":", "-"), None, read_dataset(place, columns)


def _find(source: str, data: DataConfig, name: str) -> list[Path] | Any:
    """Return the files of a source, or a `datasets.Dataset`."""
    if "://" in source:
        raise ConfigError(f"{name}: {source!r} is a URL; give a local file, a folder or a `datasets` name")
    path = Path(source).expanduser()
    if path.is_dir():
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            return _load_dataset(source, data, name, folder=path)
        return _folder(path, name)
    if path.exists():
        if path.suffix.lower() not in SUFFIXES:
            raise ConfigError(f"{name}: {source!r} has no readable format; valid suffixes are {', '.join(SUFFIXES)}")
        return [path]
    if glob.has_magic(source):
        files = [Path(match) for match in sorted(glob.glob(str(path), recursive=True)) if Path(match).is_file()]
        readable = [file for file in files if file.suffix.lower() in SUFFIXES]
        if not readable:
            what = f"only files of other formats ({files[0]})" if files else "nothing"
            raise ConfigError(f"{name}: the pattern {source!r} matches {what}; valid suffixes: {', '.join(SUFFIXES)}")
        return readable
    # what looks like a path is a missing path: asking the hub for it would take half a minute to say less
    is_path = path.is_absolute() or source.startswith((".", "~")) or path.suffix.lower() in SUFFIXES
    if is_path or not _HUB_NAME.fullmatch(source) or (len(path.parts) > 1 and Path(path.parts[0]).is_dir()):
        raise ConfigError(f"{name}: {source!r} does not exist (looked in {Path.cwd()})")
    return _load_dataset(source, data, name, folder=None)


def _folder(path: Path, name: str) -> list[Path]:
    """Return the readable files of a folder and its sub-folders in order, without hidden ones."""
    files = sorted(
        file
        for file in path.rglob("*")
        if file.is_file()
        and file.suffix.lower() in SUFFIXES
        and not any(part.startswith((".", "_")) for part in file.relative_to(path).parts)
    )
    # beside data files a .json file describes them (a manifest, dataset_infos.json)
    rows = [file for file in files if file.suffix.lower() != ".json"] or files
    if not rows:
        raise ConfigError(f"{name}: the folder {str(path)!r} holds no file with a suffix of {', '.join(SUFFIXES)}")
    return rows


def _load_dataset(source: str, data: DataConfig, name: str, *, folder: Path | None) -> Any:
    """Load a saved folder or a hub name with `datasets`, and take the split."""
    import datasets

    try:
        if folder is None:
            repository, _, configuration = source.partition(":")
            return datasets.load_dataset(repository, configuration or None, split=data.dataset_split)
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # the hub, the network and every builder raise their own types
        first = (str(error).splitlines() or [type(error).__name__])[0][:300]
        where = "is a damaged `datasets` folder" if folder else "is neither a file or folder here nor a loadable name"
        raise ConfigError(f"{name}: {source!r} {where}: {first}") from None
    if isinstance(loaded, dict):
        if data.dataset_split not in loaded:
            raise ConfigError(
                f"{name}: {source!r} has no split {data.dataset_split!r}; data.dataset_split may be {', '.join(loaded)}"
            )
        return loaded[data.dataset_split]
    return loaded
