"""Injection in rounds: how the injection set is cut, what a round trains on, and what is answered after it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from cpl_ray.assessment import Assessment, Parts, Row, Verdict, in_denominator
from cpl_ray.errors import DataError
from cpl_ray.split import place

MASTERED = ("mastered_test", "mastered_validation", "mastered_train")
INJECTION = "injection_"
"""Followed by its number, the name of a part of the injection set; numbers begin with 1."""
Rows = list[dict[str, Any]]


def cut(rows: Sequence[Row], num_rounds: int, seed: int) -> list[list[Row]]:
    """Cut the rows that the base model answers wrongly into parts whose numbers of questions differ by one at most.

    Rows that ask the same question stay together; a question's place follows from seed and text alone. Rows keep file
    order.

    Raises:
        DataError: there are fewer questions than rounds.
    """
    counted = [row for row in rows if in_denominator("injection_train", row.before)]
    keys = [row.item.question_key() for row in counted]
    order = sorted(set(keys), key=lambda key: place(seed, f"round\n{key}"))  # another order than that of the split
    if len(order) < num_rounds:
        raise DataError(
            f"study.rounds is {num_rounds}, but the injection set has {len(order)} questions that the base model "
            "answers wrongly; every round needs one at least"
        )
    part_of = {key: index * num_rounds // len(order) for index, key in enumerate(order)}
    parts: list[list[Row]] = [[] for _ in range(num_rounds)]
    for key, row in zip(keys, counted, strict=True):
        parts[part_of[key]].append(row)
    return parts


def of_round(
    whole: Assessment,
    parts: Sequence[Sequence[Row]],
    index: int,
    answers: Mapping[str, Verdict],
    *,
    keep_learned: bool,
) -> Parts:
    """Return what a round is trained and scored on, with the verdicts of the model that it starts from.

    Every row of M and of all parts is in it, so that all are scored after the round; those that are neither trained on
    nor protected are held out.

    Args:
        whole: the assessment of the base model.
        parts: as `cut` returns them.
        index: of the part to be injected, from 0.
        answers: of the model that the round starts from, by item id.
        keep_learned: what earlier rounds injected and `answers` has right joins M train.
    """

    def asked(rows: Sequence[Row]) -> list[Row]:
        return [Row(row.item, answers[row.item.id]) for row in rows]

    earlier = asked([row for part in parts[:index] for row in part])
    later = asked([row for part in parts[index + 1 :] for row in part])
    kept = [row for row in earlier if keep_learned and in_denominator("mastered_train", row.before)]
    protected = {row.item.id for row in kept}
    found = {part: asked(whole.parts[part]) for part in MASTERED}
    found["mastered_train"] += kept
    found["injection_train"] = asked(parts[index])
    found["injection_held_out"] = [row for row in earlier if row.item.id not in protected] + later
    return found


def base_answers(whole: Assessment) -> dict[str, Verdict]:
    """Return the base model's verdicts by item id.

    Raises:
        DataError: it was not asked.
    """
    found = {row.item.id: row.before for _, row in whole.rows()}
    answers = {name: verdict for name, verdict in found.items() if verdict is not None}
    if len(answers) < len(found):
        raise DataError("the assessment has no verdicts of the base model; score it first with `cpl assess`")
    return answers


def answers_of(ledger: pa.Table) -> dict[str, Verdict]:
    """Return the verdicts after training by item id, without the scores of the choices."""
    return {
        row["id"]: Verdict(
            row["id"],
            correct=row["after_correct"] is True,
            prediction=row["after_prediction"],
            margin=math.nan if row["after_margin"] is None else row["after_margin"],
            error=row["after_error"],
            f1=row["after_f1"],
        )
        for row in ledger.to_pylist()
    }


def answered(
    whole: Assessment, parts: Sequence[Sequence[Row]], answers: Mapping[str, Verdict], *, method: str, after: int
) -> Rows:
    """Return a row for each item that counts for the base model: `method`, `round`, `part`, `id`, `right`.

    Denominators are those of the base model, whatever later models answered: M what it had right, parts what it had
    wrong. An item that cannot be scored any more is not right.
    """
    sets: dict[str, Sequence[Row]] = {part: whole.parts[part] for part in MASTERED}
    sets |= {f"{INJECTION}{number}": part for number, part in enumerate(parts, start=1)}
    found = []
    for part, rows in sets.items():
        for row in rows:
            if in_denominator(part, row.before):
                verdict = answers[row.item.id]
                right = verdict.correct and verdict.error is None
                found.append({"method": method, "round": after, "part": part, "id": row.item.id, "right": right})
    return found


def counts(items: Sequence[Mapping[str, Any]]) -> Rows:
    """Return a row for each method, round and part: those and `right` of `of`, in order of appearance."""
    found: dict[tuple[str, int, str], list[int]] = {}
    for row in items:
        own = found.setdefault((row["method"], row["round"], row["part"]), [0, 0])
        own[0] += row["right"]
        own[1] += 1
    return [
        {"method": method, "round": after, "part": part, "right": right, "of": of}
        for (method, after, part), (right, of) in found.items()
    ]
