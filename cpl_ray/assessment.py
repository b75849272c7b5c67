"""What the base model knows: verdicts on items, the five parts, and the folder that keeps them.

An assessment folder holds one Parquet file per part and `manifest.json`, which is written last and carries the
sha256 of each part. Splitting is in `split.py`, letter bias in `bias.py`.
"""

import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from cpl_ray.bulk import uncollected
from cpl_ray.encoding import GENERATING
from cpl_ray.errors import ConfigError, DataError
from cpl_ray.items import Item
from cpl_ray.rundir import atomic_folder

PARTS = ("mastered_train", "mastered_validation", "mastered_test", "injection_train", "injection_held_out")
FORMAT_VERSION = 1
_SHOWN = 3
_ROWS_AT_ONCE = 1 << 16
_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
        pa.field("before_correct", pa.bool_()),
        pa.field("before_prediction", pa.string()),
        pa.field("before_margin", pa.float64()),
        pa.field("before_scores", pa.list_(pa.float64())),
        pa.field("before_error", pa.string()),
        pa.field("before_f1", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a model answered one item."""

    id: str
    """Id of the item."""
    correct: bool
    """True where the answer is right; False also where scoring failed."""
    prediction: str
    """The answer given."""
    margin: float
    """Score of the right answer minus the best other one; NaN where the scorer defines none."""
    scores: tuple[float, ...] = ()
    """Score of each choice, where there are choices."""
    error: str | None = None
    """Why the item could not be scored."""
    f1: float | None = None
    """Token F1 of the answer, in [0, 1]; None with scorers that measure none."""


class Row(NamedTuple):
    """An item of a part with the base model's verdict; None: not scored yet."""

    item: Item
    before: Verdict | None


Parts = dict[str, list[Row]]


@dataclass(frozen=True)
class Assessment:
    """A whole assessment as read from its folder."""

    parts: Parts
    """All five parts, some may be empty."""
    manifest: dict[str, Any] = field(default_factory=dict)

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Yield (part, row) over all parts in order."""
        for part in PARTS:
            for row in self.parts.get(part, ()):
                yield part, row

    @property
    def scored(self) -> bool:
        """Tell whether every row has a verdict of the base model."""
        return all(row.before is not None for _, row in self.rows())


def side_of(part: str) -> Literal["mastered", "injection"]:
    """Return the set that a part belongs to."""
    return "mastered" if part.startswith("mastered") else "injection"


def in_denominator(part: str, before: Verdict | None) -> bool:
    """Tell whether a row counts: mastered rows answered rightly before, injection rows answered wrongly.

    Rows without a verdict and rows that could not be scored are in no denominator.
    """
    if before is None or before.error is not None:
        return False
    return before.correct == (side_of(part) == "mastered")


def resolve_scorer(name: str, items: Sequence[Item]) -> str:
    """Return the scorer meant by `assess.scorer`; `auto` looks at the items.

    Raises:
        DataError: there are no items.
        ConfigError: the named scorer compares choices but some item has none.
    """
    if not items:
        raise DataError("there are no items to assess; check data.items (or data.mastered and data.injection)")
    without = [item.id for item in items if not item.choices or item.answer is None]
    if name == "auto":
        return "exact_match" if without else "choice_loglik"
    if name not in GENERATING and without:
        raise ConfigError(
            f"assess.scorer: {name!r} compares choices, but {len(without)} of {len(items)} items have none "
            f"(e.g. {without[0]!r}); use exact_match, token_f1 or auto"
        )
    return name


def with_before(parts: Mapping[str, Sequence[Row]], verdicts: Mapping[str, Verdict]) -> Parts:
    """Return the parts with the base model's verdicts filled in or replaced.

    Raises:
        DataError: some item has no verdict.
    """
    missing = [row.item.id for rows in parts.values() for row in rows if row.item.id not in verdicts]
    if missing:
        raise DataError(f"{len(missing)} items have no verdict of the base model, e.g. {', '.join(missing[:_SHOWN])}")
    return {part: [Row(row.item, verdicts[row.item.id]) for row in rows] for part, rows in parts.items()}


def outside_denominators(parts: Mapping[str, Sequence[Row]]) -> dict[str, list[str]]:
    """Return per set the ids of scored rows that training uses but no rate counts.

    These are brought mastered rows which the base model gets wrong, brought injection rows which it gets right, and
    rows it could not be scored on.
    """
    outside: dict[str, list[str]] = {"mastered": [], "injection": []}
    for part in PARTS:
        for row in parts.get(part, ()):
            if row.before is not None and not in_denominator(part, row.before):
                outside[side_of(part)].append(row.item.id)
    return outside


def _table(rows: Sequence[Row]) -> pa.Table:
    """Return one part as a table; `before_correct` is null where a row is unscored or could not be scored."""
    befores = [row.before for row in rows]
    columns = {
        "id": [row.item.id for row in rows],
        "item": [row.item.to_json() for row in rows],
        "before_correct": [None if b is None or b.error is not None else b.correct for b in befores],
        "before_prediction": [b and b.prediction for b in befores],
        "before_margin": [b and b.margin for b in befores],
        "before_scores": [b and list(b.scores) for b in befores],
        "before_error": [b and b.error for b in befores],
        "before_f1": [b and b.f1 for b in befores],
    }
    return pa.table(columns, schema=_SCHEMA)


def _row(record: Mapping[str, Any]) -> Row:
    item = Item.from_json(record["item"])
    if record["before_prediction"] is None:
        return Row(item, None)
    margin = record["before_margin"]
    verdict = Verdict(
        id=item.id,
        correct=bool(record["before_correct"]),
        prediction=record["before_prediction"],
        margin=math.nan if margin is None else margin,
        scores=tuple(record["before_scores"] or ()),
        error=record["before_error"],
        f1=record.get("before_f1"),
    )
    return Row(item, verdict)


def write_assessment(folder: str | Path, parts: Mapping[str, Sequence[Row]], manifest: Mapping[str, Any]) -> None:
    """Write the folder whole or not at all, replacing an older one: a file per part, then the manifest.

    Whatever follows from the rows is added to the manifest here, so that it cannot disagree with them: format version,
    counts of each set, rows outside the denominators, and rows, denominator and sha256 of each part. The same rows and
    manifest give the same bytes.

    Raises:
        DataError: two rows have the same id.
        ValueError: a part is unknown or the manifest is not JSON.
        OSError: the folder cannot be written.
    """
    if unknown := set(parts) - set(PARTS):
        raise ValueError(f"unknown parts {sorted(unknown)}; valid are {', '.join(PARTS)}")
    ids = Counter(row.item.id for rows in parts.values() for row in rows)
    if twice := [name for name, times in ids.items() if times > 1]:
        raise DataError(f"item id {twice[0]!r} occurs twice; ids name items in the results and must be unique")
    described: dict[str, dict[str, Any]] = {}
    with atomic_folder(folder) as part_folder, uncollected():
        for part in PARTS:
            rows = parts.get(part, ())
            sink = io.BytesIO()
            with pq.ParquetWriter(sink, _SCHEMA, compression="zstd") as writer:
                for start in range(0, max(1, len(rows)), _ROWS_AT_ONCE):  # a large part is never one table
                    writer.write_table(_table(rows[start : start + _ROWS_AT_ONCE]))
            content = sink.getvalue()
            (part_folder / f"{part}.parquet").write_bytes(content)
            described[part] = {
                "file": f"{part}.parquet",
                "rows": len(rows),
                "denominator": sum(in_denominator(part, row.before) for row in rows),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        sizes = {
            side: sum(described[part]["rows"] for part in PARTS if side_of(part) == side)
            for side in ("mastered", "injection")
        }
        whole = {
            **manifest,
            "format_version": FORMAT_VERSION,
            "scored": all(row.before is not None for rows in parts.values() for row in rows),
            "counts": {**manifest.get("counts", {}), **sizes},
            "outside_denominators": outside_denominators(parts),
            "parts": described,
        }
        text = json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        (part_folder / "manifest.json").write_text(text, encoding="utf-8")


def assessment_folder(path: str | Path) -> Path:
    """Return the assessment folder that `path` is or, where it is a run folder, holds."""
    inside = Path(path) / "assessment"
    return inside if (inside / "manifest.json").is_file() else Path(path)


def read_assessment(folder: str | Path) -> Assessment:
    """Read an assessment folder, or the one inside a run folder, and verify every digest.

    Raises:
        ConfigError: there is no assessment.
        DataError: a file is missing, cut short or altered, or the format is of another version; names the file.
    """
    folder = assessment_folder(folder)
    path = folder / "manifest.json"
    if not path.is_file():
        raise ConfigError(f"there is no assessment in {folder} (no manifest.json); run `cpl assess` first")
    try:
        manifest = json.loads(path.read_bytes())
        described = {part: (manifest["parts"][part]["sha256"], manifest["parts"][part]["rows"]) for part in PARTS}
        version = manifest["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged or is no manifest of an assessment; run `cpl assess` again") from error
    if version != FORMAT_VERSION:
        raise DataError(f"{path} has format version {version!r}, this is {FORMAT_VERSION}; run `cpl assess` again")
    parts = {part: _read_part(folder / f"{part}.parquet", *described[part]) for part in PARTS}
    return Assessment(parts, manifest)


def _read_part(path: Path, sha256: str, num_rows: int) -> list[Row]:
    """Read one part from the very bytes whose digest was checked."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); run `cpl assess` again") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"{path} is not what its manifest says (sha256 differs); run `cpl assess` again")
    try:
        with uncollected(), pq.ParquetFile(pa.BufferReader(content)) as file:  # no threads: see ledger.py
            rows = [_row(r) for rows in file.iter_batches(_ROWS_AT_ONCE, use_threads=False) for r in rows.to_pylist()]
    except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be understood ({error}); run `cpl assess` again") from error
    if len(rows) != num_rows:
        raise DataError(f"{path} has {len(rows)} rows, its manifest says {num_rows}; run `cpl assess` again")
    return rows


def replace_before(
    folder: str | Path, verdicts: Mapping[str, Verdict], updates: Mapping[str, Any] | None = None
) -> Assessment:
    """Fill in or replace the base model's verdicts of a written assessment, atomically.

    Args:
        folder: the assessment folder.
        verdicts: a verdict for every item, by id.
        updates: manifest entries that change with them, e.g. `letter_report` and `scorer`.

    Raises:
        ConfigError, DataError: as `read_assessment` and `with_before`.
    """
    folder = assessment_folder(folder)
    old = read_assessment(folder)
    write_assessment(folder, with_before(old.parts, verdicts), {**old.manifest, **(updates or {})})
    return read_assessment(folder)
