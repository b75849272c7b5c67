"""From verdicts to parts: who is mastered, who is injected, who is held out; and that no question is in two places.

Parts are chosen by question, not by row: rows that ask the same question always go together. A question's place
follows from the split seed and its text alone, so the order of the file and the ids of the rows do not matter.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from typing import Literal

from cpl_ray.assessment import PARTS, Parts, Row, Verdict, in_denominator, outside_denominators, side_of, with_before
from cpl_ray.bulk import uncollected
from cpl_ray.config import SplitConfig
from cpl_ray.errors import DataError
from cpl_ray.items import Item

_SHOWN = 3
_SHOWN_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class SetAside:
    """An item that belongs to no part, and why."""

    id: str
    kind: Literal["error", "contradictory"]
    reason: str


@dataclass(frozen=True)
class Graded:
    """Items by what the base model made of them, each list in file order."""

    mastered: list[Row]
    injection: list[Row]
    set_aside: list[SetAside]


def grade(items: Sequence[Item], verdicts: Mapping[str, Verdict]) -> Graded:
    """Sort items into mastered and injection by the base model's verdicts.

    Items that could not be scored are set aside; so are all rows of a question which is answered rightly in one row
    and wrongly in another, since it would stand on both sides.

    Raises:
        DataError: an item has no verdict, or an id occurs twice.
    """
    with uncollected():
        return _grade(items, verdicts)


def _grade(items: Sequence[Item], verdicts: Mapping[str, Verdict]) -> Graded:
    _check_ids({"data.items": items})
    rows = with_before({"items": [Row(item, None) for item in items]}, verdicts)["items"]
    outcomes: dict[str, set[bool]] = {}
    keys = [row.item.question_key() for row in rows]
    for key, row in zip(keys, rows, strict=True):
        if row.before is not None and row.before.error is None:
            outcomes.setdefault(key, set()).add(row.before.correct)
    graded = Graded([], [], [])
    for key, row in zip(keys, rows, strict=True):
        if row.before is None or row.before.error is not None:
            reason = "no verdict" if row.before is None else str(row.before.error)
            graded.set_aside.append(SetAside(row.item.id, "error", f"could not be scored: {reason}"))
        elif len(outcomes[key]) > 1:
            reason = f"the same question is answered both rightly and wrongly: {_shorten(key)!r}"
            graded.set_aside.append(SetAside(row.item.id, "contradictory", reason))
        else:
            (graded.mastered if row.before.correct else graded.injection).append(row)
    return graded


def split(
    items: Sequence[Item], verdicts: Mapping[str, Verdict], config: SplitConfig, *, graded: Graded | None = None
) -> Parts:
    """Split assessed items into the five parts; `grade` says who was set aside.

    `graded` is what `grade` said of these items and verdicts, where the caller has it.

    Shares count distinct questions. A share s of n questions is s·n rounded half up, at least 1 where s > 0; where
    that leaves nothing for training, the largest part gives one up until it does. Within a part rows keep file order.

    Raises:
        DataError: no items, nothing scored, nothing mastered, nothing to inject, or too few questions for the parts
            asked for.
    """
    if not items:
        raise DataError("there are no items to split; check data.items")
    graded = grade(items, verdicts) if graded is None else graded
    total = len(graded.mastered) + len(graded.injection)
    if not total:
        raise DataError(
            f"none of the {len(items)} items is usable; the first ({graded.set_aside[0].id!r}): "
            f"{graded.set_aside[0].reason}"
        )
    if not graded.injection:
        raise DataError(
            f"nothing to inject: the model answers all {total} items rightly; bring items it does not know yet"
        )
    if not graded.mastered:
        raise DataError(
            f"nothing is mastered: the model answers none of the {total} items rightly, so there is nothing to "
            "protect; check prompt and assess.scorer, or add items that the model knows"
        )
    mastered = _divide(
        graded.mastered,
        {
            "mastered_test": ("split.mastered_test", config.mastered_test),
            "mastered_validation": ("split.mastered_validation", config.mastered_validation),
        },
        "mastered_train",
        config.seed,
    )
    held_out = {"injection_held_out": ("split.injection_held_out", config.injection_held_out)}
    injection = _divide(graded.injection, held_out, "injection_train", config.seed)
    parts = {**mastered, **injection}
    return {part: parts[part] for part in PARTS}


def part_sizes(num_questions: int, shares: Sequence[float]) -> list[int]:
    """Return how many questions each share gets; the rest, at least 1, is for training.

    Args:
        num_questions: distinct questions, at least 1 more than there are positive shares.
        shares: in [0, 1], together below 1.
    """
    if num_questions <= sum(share > 0 for share in shares):
        raise ValueError(f"{num_questions} questions are too few for shares {list(shares)} and training")
    # Decimal of the shortest text of the share: 0.145 of 100 is 14.5 and becomes 15, which binary floats miss.
    exact = [(Decimal(repr(float(share))) * num_questions).quantize(Decimal(1), ROUND_HALF_UP) for share in shares]
    sizes = [max(1, int(size)) if share > 0 else 0 for size, share in zip(exact, shares, strict=True)]
    while sum(sizes) >= num_questions:
        sizes[sizes.index(max(sizes))] -= 1
    return sizes


def _divide(rows: list[Row], asked: Mapping[str, tuple[str, float]], rest: str, seed: int) -> Parts:
    """Cut one side into the asked parts (part -> configuration key and share) and `rest`."""
    keys = [row.item.question_key() for row in rows]
    order = sorted(set(keys), key=lambda key: place(seed, key))
    shares = [share for _, share in asked.values()]
    needed = 1 + sum(share > 0 for share in shares)
    if len(order) < needed:
        names = " and ".join(f"{name}=0" for name, share in asked.values() if share > 0)
        raise DataError(
            f"{len(order)} distinct {side_of(rest)} questions cannot fill {needed} parts; add items or set {names}"
        )
    part_of = dict.fromkeys(order, rest)
    start = 0
    for part, size in zip(asked, part_sizes(len(order), shares), strict=True):
        part_of.update(dict.fromkeys(order[start : start + size], part))
        start += size
    parts: Parts = {part: [] for part in (*asked, rest)}
    for key, row in zip(keys, rows, strict=True):
        parts[part_of[key]].append(row)
    return parts


def place(seed: int, key: str) -> bytes:
    """Return a uniform pseudo-random rank of a question that depends on nothing but seed and text."""
    return hashlib.sha256(f"{seed}\n{key}".encode("utf-8", "surrogatepass")).digest()


def parts_from_brought(
    mastered: Sequence[Item],
    mastered_held_out: Sequence[Item],
    injection: Sequence[Item],
    injection_held_out: Sequence[Item],
    verdicts: Mapping[str, Verdict] | None = None,
) -> Parts:
    """Take brought sets as parts, whole: held-out mastered items become M test, there is no M validation.

    Without verdicts, ids that occur in several sets become `<set>/<id>`, so that the items can be scored together;
    score the items of the result and use `with_before`.

    Raises:
        DataError: a set is empty, a question leaks, an item has no verdict, or verdicts are given although ids are
            ambiguous.
    """
    brought = {
        "data.mastered": mastered,
        "data.mastered_held_out": mastered_held_out,
        "data.injection": injection,
        "data.injection_held_out": injection_held_out,
    }
    for name in ("data.mastered", "data.injection"):
        if not brought[name]:
            raise DataError(f"{name} has no usable items; it must hold at least one")
    if verdicts is None:
        times = Counter(name for items in brought.values() for name in {item.id for item in items})
        brought = {
            source: [
                replace(item, id=f"{source.removeprefix('data.')}/{item.id}") if times[item.id] > 1 else item
                for item in items
            ]
            for source, items in brought.items()
        }
    _check_ids(brought)
    names = ("mastered_train", "mastered_test", "injection_train", "injection_held_out")
    parts: Parts = {part: [] for part in PARTS}
    for part, items in zip(names, brought.values(), strict=True):
        parts[part] = [Row(item, None) for item in items]
    check_leaks(parts)
    return parts if verdicts is None else with_before(parts, verdicts)


def check_leaks(parts: Mapping[str, Sequence[Row]]) -> None:
    """Check that no question is in two parts, on the same side or on both.

    Raises:
        DataError: names the first questions, their ids and parts.
    """
    first: dict[str, tuple[str, str]] = {}
    leaks: dict[str, str] = {}
    with uncollected():
        for part, rows in parts.items():
            for row in rows:
                key = row.item.question_key()
                other_part, other_id = first.setdefault(key, (part, row.item.id))
                if other_part != part and key not in leaks:
                    leaks[key] = f"{_shorten(key)!r} ({other_id!r} in {other_part}, {row.item.id!r} in {part})"
    if leaks:
        shown = "; ".join(list(leaks.values())[:_SHOWN])
        raise DataError(
            f"{len(leaks)} questions are in more than one part: {shown}"
            f"{' …' if len(leaks) > _SHOWN else ''}; each question may be in one part only"
        )


def denominator_notices(parts: Mapping[str, Sequence[Row]]) -> list[str]:
    """Say, one sentence a set, how many brought rows the base model's verdicts take out of the denominators."""
    notices = []
    for side, ids in outside_denominators(parts).items():
        rows = [(part, row) for part in parts if side_of(part) == side for row in parts[part]]
        if not ids:
            continue
        expected = "rightly" if side == "mastered" else "wrongly"
        text = f"data.{side}: the base model does not answer {len(ids)} of {len(rows)} rows {expected}"
        text += f" (e.g. {', '.join(ids[:_SHOWN])}); they are trained on but not counted"
        if not any(in_denominator(part, row.before) for part, row in rows):
            text += f", which leaves none to measure {'forgetting' if side == 'mastered' else 'learning'} on"
        notices.append(text)
    return notices


def _check_ids(sets: Mapping[str, Sequence[Item]]) -> None:
    """Refuse ids that occur twice: verdicts and results are keyed by id."""
    seen: dict[str, str] = {}
    for source, items in sets.items():
        for item in items:
            if item.id in seen:
                raise DataError(f"item id {item.id!r} occurs twice ({seen[item.id]}, {source}); ids must be unique")
            seen[item.id] = source


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
