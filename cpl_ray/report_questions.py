"""The questions of a run for its report: the ledger as JSON that is safe inside a page, forgotten held-out first."""

import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from markupsafe import Markup

from cpl_ray.assessment import PARTS
from cpl_ray.tracking_uri import redact

MAX_ROWS = 50_000
MAX_CHARS = 1_000
FLIPS = ("forgotten", "learned", "missed", "kept", "not counted")
PART_NAMES = {
    "mastered_test": "mastered, held-out (M test)",
    "mastered_validation": "mastered, validation",
    "mastered_train": "mastered, in-set (M train)",
    "injection_train": "injection (I)",
    "injection_held_out": "injection, held-out",
}
_PART_ORDER = tuple(PART_NAMES)
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


@dataclass(frozen=True)
class Questions:
    """The question section of a page."""

    data: Markup
    """JSON for `report.js`."""
    total: int
    """Items in the ledger."""
    shown: int
    """Items in the page, at most `MAX_ROWS`."""
    cut: int
    """Texts that were cut to `MAX_CHARS`."""
    forgotten_held_out: int
    margins: bool
    """True: the scorer gave margins, or F1."""
    measure: str
    """What stands in their column: `Margin` or `F1`."""


def questions(ledger: pa.Table) -> Questions:
    """Return the rows of a ledger, ready to be put into a page.

    Each row is an array: id, index of the part, index of the flip, question, right answer, answer before and after,
    margin (or F1) before and after, error before and after, right before and after (null: could not be scored).
    """
    records = ledger.to_pylist()
    measure = "f1" if any(record["after_f1"] is not None for record in records) else "margin"
    records.sort(key=lambda record: _order(record, measure))
    shown = records[:MAX_ROWS]
    cut = Counter[bool]()

    def short(text: str | None) -> str | None:
        if text is None or len(text) <= MAX_CHARS:
            return text
        cut[True] += 1
        return text[: MAX_CHARS - 1] + "…"

    def error(text: str | None) -> str | None:
        return None if text is None else short(redact(text))

    rows = [
        [
            record["id"],
            _PART_ORDER.index(record["part"]),
            FLIPS.index(record["flip"] or FLIPS[-1]),
            short(record["question"]),
            short(record["target"]),
            short(record["before_prediction"]),
            short(record["after_prediction"]),
            _finite(record[f"before_{measure}"]),
            _finite(record[f"after_{measure}"]),
            error(record["before_error"]),
            error(record["after_error"]),
            record["before_correct"],
            record["after_correct"],
        ]
        for record in shown
    ]
    return Questions(
        data=embedded_json(
            {
                "parts": list(PART_NAMES.values()),
                "flips": FLIPS,
                "measure": "F1" if measure == "f1" else "Margin",
                "rows": rows,
            }
        ),
        total=len(records),
        shown=len(shown),
        cut=cut[True],
        forgotten_held_out=sum(r["part"] == "mastered_test" and r["flip"] == "forgotten" for r in records),
        margins=any(row[7] is not None and row[8] is not None for row in rows),
        measure="F1" if measure == "f1" else "Margin",
    )


def embedded_json(value: Any) -> Markup:
    """Return `value` as JSON that no HTML parser takes for anything else, wherever in a page it stands.

    Without `<`, `>` and `&` it can neither end its element nor begin a comment; U+2028 and U+2029 end lines in old
    JavaScript. All of them only occur inside strings, where the escape means the same.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    # a lone surrogate cannot be written as UTF-8
    return Markup(text.encode("utf-8", errors="backslashreplace").decode("utf-8"))


def _order(record: dict[str, Any], measure: str) -> tuple[int, int, float]:
    """Sort by flip, then held-out before the rest, then by how much margin (or F1) was lost."""
    if record["part"] not in PARTS:
        raise ValueError(f"part of {record['id']!r} is {record['part']!r}; expected one of {', '.join(PARTS)}")
    flip = FLIPS.index(record["flip"] or FLIPS[-1])
    before, after = _finite(record[f"before_{measure}"]), _finite(record[f"after_{measure}"])
    change = after - before if before is not None and after is not None else 0.0
    return flip, _PART_ORDER.index(record["part"]), change


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
