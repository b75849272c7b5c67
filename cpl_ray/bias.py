"""Letter bias: whether mastered and injection were separated by knowledge or by the position of the answer.

A weak model answers the same letter whatever is asked; then the mastered set is the set of items whose answer stands
under that letter, and protecting it protects nothing.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cpl_ray.assessment import Verdict
from cpl_ray.items import LETTERS, Item
from cpl_ray.measures import Rate

_EXCESS = 0.2
"""A letter is favoured where its share exceeds the fair one by more than this, beyond the 95 % interval of chance."""


def letter_report(items: Sequence[Item], verdicts: Mapping[str, Verdict]) -> dict[str, Any]:
    """Count gold and predicted letters of mastered and injection items, and warn where one letter decides.

    Items without choices and items that could not be scored are left out.

    Returns:
        `mastered` and `injection`, each with `items` (number), `gold` and `predicted` (letter -> number), and
        `warning`: text, or None where nothing is suspicious.
    """
    gold: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    predicted: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for item in items:
        verdict = verdicts.get(item.id)
        if verdict is None or verdict.error is not None or item.answer is None or not item.choices:
            continue
        gold[verdict.correct][LETTERS[item.answer]] += 1
        if (letter := _predicted_letter(item, verdict)) is not None:
            predicted[verdict.correct][letter] += 1
    warnings = [text for text in (_favoured(gold, predicted), _separated(gold)) if text is not None]
    sides = {
        name: {
            "items": gold[correct].total(),
            "gold": dict(sorted(gold[correct].items())),
            "predicted": dict(sorted(predicted[correct].items())),
        }
        for name, correct in (("mastered", True), ("injection", False))
    }
    return {**sides, "warning": "; ".join(warnings) or None}


def _predicted_letter(item: Item, verdict: Verdict) -> str | None:
    """Return the letter of the choice with the best score; without scores, of the one named by text or letter."""
    if len(verdict.scores) == len(item.choices):
        return LETTERS[max(range(len(verdict.scores)), key=verdict.scores.__getitem__)]
    answer = verdict.prediction.strip()
    texts = [choice.strip() for choice in item.choices]
    if answer in texts:
        return LETTERS[texts.index(answer)]
    return answer if answer in LETTERS[: len(texts)] and answer else None


def _favoured(gold: Mapping[bool, Counter[str]], predicted: Mapping[bool, Counter[str]]) -> str | None:
    """Warn where the model answers one letter far more often than it is right."""
    answers, truth = predicted[True] + predicted[False], gold[True] + gold[False]
    if not answers:
        return None
    letter, count = answers.most_common(1)[0]
    answered, fair = Rate(count, answers.total()), Rate(truth[letter], truth.total())
    if not _exceeds(answered, fair.share or 0.0):
        return None
    return (
        f"letter bias: the model answers {letter} to {_say(answered)} of the items, but {letter} is the right answer "
        f"of {_say(fair)}; mastered and injection may follow the letter and not the knowledge "
        "(with letter_logit, assess.permutations asks for answers that survive another order)"
    )


def _separated(gold: Mapping[bool, Counter[str]]) -> str | None:
    """Warn where one gold letter is far more frequent among mastered than among injection items."""
    if not gold[True] or not gold[False]:
        return None
    rates = {
        letter: (Rate(count, gold[True].total()), Rate(gold[False][letter], gold[False].total()))
        for letter, count in sorted(gold[True].items())
    }
    letter, (mastered, injection) = max(rates.items(), key=lambda entry: _difference(*entry[1]))
    interval = injection.interval()
    if interval is None or _difference(mastered, injection) <= _EXCESS or not _exceeds(mastered, interval[1], 0.0):
        return None
    return (
        f"letter bias: {letter} is the right answer of {_say(mastered)} mastered items, but of {_say(injection)} "
        "injection items"
    )


def _difference(first: Rate, second: Rate) -> float:
    return (first.share or 0.0) - (second.share or 0.0)


def _exceeds(rate: Rate, fair: float, excess: float = _EXCESS) -> bool:
    """Tell whether a share is above `fair` by more than `excess` and its interval wholly above `fair`."""
    interval = rate.interval()
    return interval is not None and (rate.share or 0.0) - fair > excess and interval[0] > fair


def _say(rate: Rate) -> str:
    return f"{rate.count} of {rate.of} ({100.0 * (rate.share or 0.0):.0f} %)"
