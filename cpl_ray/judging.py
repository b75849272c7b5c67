"""From scores or generated text to a verdict: no tensors, no model."""

import math
import random
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from cpl_ray.assessment import Verdict
from cpl_ray.items import LETTERS, Item

NON_FINITE = "non-finite scores"


def judge_choices(item: Item, scores: Sequence[float], error: str | None, name: str) -> Verdict:
    """Compare the choices' scores; the first of equal ones wins, as in lm-evaluation-harness."""
    if error is not None or item.answer is None:
        return failed(item.id, error or "no answer is known")
    if not all(math.isfinite(score) for score in scores):
        return failed(item.id, NON_FINITE)
    if name == "choice_loglik_norm":
        scores = [score / len(choice) for score, choice in zip(scores, item.choices, strict=True)]
    best = max(range(len(scores)), key=lambda index: scores[index])
    margin = scores[item.answer] - max(score for index, score in enumerate(scores) if index != item.answer)
    prediction = LETTERS[best] if name == "letter_logit" else item.choices[best]
    return Verdict(item.id, best == item.answer, prediction, margin, tuple(scores))


def worse(first: Verdict, other: Verdict) -> Verdict:
    """Join the verdicts of two option orders: right only if both are; answer and scores are those of `first`."""
    if first.error is not None:
        return first
    if other.error is not None:
        return failed(first.id, other.error)
    return replace(first, correct=first.correct and other.correct, margin=min(first.margin, other.margin))


def failed(item_id: str, reason: str) -> Verdict:
    """Return the verdict on an item that could not be scored."""
    return Verdict(id=item_id, correct=False, prediction="", margin=math.nan, error=reason)


def answers(text: str, target: str, *, strict: bool) -> bool:
    """Tell whether generated text gives the target: equal when stripped, or (unless `strict`) beginning with it.

    The beginning counts only where the answer ends there: no letter, digit or combining mark follows, nor a point or
    comma with a digit behind it ("3" is not given by "3.14").
    """
    # tokenizers normalise; the same letter must not differ by how it is composed
    text, target = unicodedata.normalize("NFC", text).strip(), unicodedata.normalize("NFC", target).strip()
    if text == target:
        return True
    if strict or not text.startswith(target):
        return False
    return not _goes_on(text[len(target) :])


def decided(text: str, target: str, *, strict: bool) -> bool:
    """Tell whether no further text can change what `answers` says."""
    # an unfinished character at the end is shown as U+FFFD; the last one may still be joined by a combining mark
    text, target = unicodedata.normalize("NFC", text.rstrip("\ufffd"))[:-1].lstrip(), target.strip()
    target = unicodedata.normalize("NFC", target)
    if len(text) <= len(target):
        return not target.startswith(text)
    if not text.startswith(target):
        return True
    rest = text[len(target) :]
    if strict:
        return bool(rest.strip())
    return rest[0] not in ".," or len(rest) > 1


def _goes_on(rest: str) -> bool:
    if unicodedata.category(rest[0])[0] in "LNM":
        return True
    return rest[0] in ".," and rest[1:2].isdigit()


def reordered(item: Item, count: int, seed: int) -> list[Item]:
    """Return up to `count` copies of a multiple-choice item with other option orders, by seed and item id.

    Rotations come first, so that the right answer stands under another letter each time; an item has only so many
    orders, so there may be fewer copies.
    """
    num = len(item.choices)
    if count == 0 or item.answer is None or num < 2:
        return []
    generator = random.Random(f"{seed}:{item.id}")
    identity = tuple(range(num))
    orders = [identity[shift:] + identity[:shift] for shift in range(1, num)]
    generator.shuffle(orders)
    wanted = min(count, math.factorial(num) - 1)
    seen = {identity, *orders}
    while len(orders) < wanted:
        order = tuple(generator.sample(identity, num))
        if order not in seen:
            seen.add(order)
            orders.append(order)
    answer = item.answer
    return [
        replace(item, choices=tuple(item.choices[i] for i in order), answer=order.index(answer))
        for order in orders[:wanted]
    ]
