"""The ledger: every item before and after training, and the rates that follow from it."""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from cpl_ray.assessment import PARTS, Assessment, Row, Verdict, in_denominator, side_of
from cpl_ray.errors import ConfigError, DataError
from cpl_ray.measures import Rate, TwoByTwo, two_by_two
from cpl_ray.rundir import atomic_write_bytes

Flip = Literal["learned", "forgotten", "kept", "missed"]
_SHOWN = 3
_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("set", pa.string(), nullable=False),
        pa.field("part", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("target", pa.string(), nullable=False),
        pa.field("before_correct", pa.bool_()),
        pa.field("before_prediction", pa.string()),
        pa.field("before_margin", pa.float64()),
        pa.field("after_correct", pa.bool_()),
        pa.field("after_prediction", pa.string()),
        pa.field("after_margin", pa.float64()),
        pa.field("flip", pa.string()),
        pa.field("before_error", pa.string()),
        pa.field("after_error", pa.string()),
        pa.field("before_f1", pa.float64()),
        pa.field("after_f1", pa.float64()),
    ]
)
LATER = ("before_f1", "after_f1")
# The three forgetting rates, honest number first.
_FORGOTTEN = {"held_out": "mastered_test", "validation": "mastered_validation", "in_set": "mastered_train"}


def flip_of(part: str, before: Verdict | None, after: Verdict) -> Flip | None:
    """Return what training did to an item; None where it is in no denominator.

    An item that could be scored before but not after counts as not answered: forgotten or missed.
    """
    if not in_denominator(part, before):
        return None
    right = after.correct and after.error is None
    if side_of(part) == "mastered":
        return "kept" if right else "forgotten"
    return "learned" if right else "missed"


def build_ledger(assessment: Assessment, after: Mapping[str, Verdict]) -> pa.Table:
    """Join the verdicts before and after training, one row per item.

    Columns: id, set, part, question, target; correct, prediction and margin before and after; flip; errors; token F1
    where the scorer measures it. `correct` is null where the item was not or could not be scored, `flip` is null
    outside the denominators.

    Raises:
        DataError: the base model was never asked, or an item has no verdict afterwards.
    """
    rows = list(assessment.rows())
    if not assessment.scored:
        raise DataError("the assessment has no verdicts of the base model, so nothing can be compared; score it first")
    missing = [row.item.id for _, row in rows if row.item.id not in after]
    if missing:
        raise DataError(f"{len(missing)} items have no verdict after training, e.g. {', '.join(missing[:_SHOWN])}")
    return pa.Table.from_pylist([_record(part, row, after[row.item.id]) for part, row in rows], schema=_SCHEMA)


def _record(part: str, row: Row, after: Verdict) -> dict[str, Any]:
    item = row.item
    asked = item.question or item.cloze or item.prompt or "\n".join(turn.content for turn in item.messages)
    head = {"id": item.id, "set": side_of(part), "part": part, "question": asked, "target": item.target}
    sides = {**_columns("before", row.before), **_columns("after", after)}
    return {**head, **sides, "flip": flip_of(part, row.before, after)}


def _columns(side: str, verdict: Verdict | None) -> dict[str, Any]:
    if verdict is None:
        return {}
    return {
        f"{side}_correct": None if verdict.error is not None else verdict.correct,
        f"{side}_prediction": verdict.prediction,
        f"{side}_margin": None if math.isnan(verdict.margin) else verdict.margin,
        f"{side}_error": verdict.error,
        f"{side}_f1": verdict.f1,
    }


def write_ledger(path: str | Path, table: pa.Table) -> None:
    """Write the ledger as Parquet, whole or not at all."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    atomic_write_bytes(Path(path), sink.getvalue())


def read_ledger(path: str | Path) -> pa.Table:
    """Read a ledger.

    Raises:
        ConfigError: there is none.
        DataError: the file is damaged or is no ledger.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"there is no ledger {path}; run `cpl evaluate` first")
    try:
        # by this thread alone: Arrow's own still run when a short command leaves, and then it may end by SIGABRT;
        # read_table and Python's own streams bring some even with use_threads=False
        table = pq.ParquetFile(pa.BufferReader(path.read_bytes())).read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged ({error}); run `cpl evaluate` again") from error
    for name in LATER:
        if name not in table.column_names:  # written by an earlier version
            table = table.append_column(name, pa.nulls(table.num_rows, pa.float64()))
    if absent := [name for name in _SCHEMA.names if name not in table.column_names]:
        raise DataError(f"{path} is no ledger: it has no column {absent[0]!r}; run `cpl evaluate` again")
    return table.select(_SCHEMA.names)


def summarise(table: pa.Table) -> dict[str, Any]:
    """Count what was forgotten and learned.

    Returns:
        `forgotten` with `held_out` (M test), `validation` and `in_set` (M train), of the items mastered before;
        `learned` (injection train) and `learned_held_out` (None without such items), of the items not known before;
        each count, of, share, low and high (share and interval None of 0 items). `accuracy`: per part with rows,
        over all its items, also those outside the denominators: `before` and `after` as rates, and the paired
        table `both, only_first, only_second, neither, mcnemar_p` with first = before; and where the scorer measures it
        `mean_f1` before and after, over the items that have one.
    """
    records = table.select(["id", "part", "before_correct", "after_correct", "flip", *LATER]).to_pylist()
    by_part: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    for record in records:
        by_part[record["part"]].append(record)
    return {
        "forgotten": {name: _rate(by_part[part], "forgotten").to_dict() for name, part in _FORGOTTEN.items()},
        "learned": _rate(by_part["injection_train"], "learned").to_dict(),
        "learned_held_out": (
            _rate(by_part["injection_held_out"], "learned").to_dict() if by_part["injection_held_out"] else None
        ),
        "accuracy": {part: _accuracy(rows) for part, rows in by_part.items() if rows},
    }


def forgotten_held_out(table: pa.Table) -> dict[str, bool]:
    """Return by id whether an item of M test was forgotten, of those that count: what paired comparisons take."""
    return {
        row["id"]: row["flip"] == "forgotten"
        for row in table.select(["id", "part", "flip"]).to_pylist()
        if row["part"] == "mastered_test" and row["flip"] is not None
    }


def _rate(records: list[dict[str, Any]], flip: Flip) -> Rate:
    flips = [record["flip"] for record in records if record["flip"] is not None]
    return Rate(flips.count(flip), len(flips))


def _accuracy(records: list[dict[str, Any]]) -> dict[str, Any]:
    # Null is "could not be scored": not answered, and so not right.
    before = {record["id"]: record["before_correct"] is True for record in records}
    table: TwoByTwo = two_by_two(before, {record["id"]: record["after_correct"] is True for record in records})
    found = {"before": table.first.to_dict(), "after": table.second.to_dict(), "paired": table.to_dict()}
    means = {side: _mean([record[f"{side}_f1"] for record in records]) for side in ("before", "after")}
    return found | ({"mean_f1": means} if any(mean is not None for mean in means.values()) else {})


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
