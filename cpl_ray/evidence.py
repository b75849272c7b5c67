"""What the gate is shown besides result.json: the champion on the same items, and how far verdicts change by chance.

Pure: the verdicts come from `rescoring.py`, the judgement is in `gate.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cpl_ray.assessment import Verdict
from cpl_ray.errors import DataError
from cpl_ray.measures import Rate, TwoByTwo


@dataclass(frozen=True)
class Comparison:
    """The candidate and the present champion, asked the same items of M test in the same way."""

    version: str
    """The champion's version."""
    table: TwoByTwo
    """Items answered rightly: first = candidate, second = champion."""
    champion_is_base: bool = False
    """The candidate was trained from the champion: M test is what the champion answered, so it cannot be worse there.

    Then this comparison only repeats the forgetting, for which the budget is the limit, and decides nothing."""
    same_test_set: bool | None = None
    """Whether the champion was measured on the very same M test, which neither has been trained on; None: unknown."""

    def to_dict(self) -> dict[str, Any]:
        """Return version, the four cells, the exact two-sided McNemar p and what is known about the test set."""
        table = self.table
        return {
            "version": self.version,
            "both": table.both,
            "only_candidate": table.only_first,
            "only_champion": table.only_second,
            "neither": table.neither,
            "mcnemar_p": table.p_value,
            "champion_is_base": self.champion_is_base,
            "same_test_set": self.same_test_set,
        }


@dataclass(frozen=True)
class Noise:
    """How many verdicts on the candidate changed though only the way of asking did.

    Each way of asking, e.g. `batch_size`, is mapped to the changed verdicts of those asked again.
    """

    mastered: Mapping[str, Rate] = field(default_factory=dict)
    """On M test."""
    injection: Mapping[str, Rate] = field(default_factory=dict)
    """On the injection items."""

    @property
    def mastered_floor(self) -> int:
        """Return the noise floor on M test: the most verdicts that any one way of asking changed."""
        return max((rate.count for rate in self.mastered.values()), default=0)

    @property
    def injection_floor(self) -> int:
        """Return the noise floor on the injection items."""
        return max((rate.count for rate in self.injection.values()), default=0)

    def to_dict(self) -> dict[str, Any]:
        """Return changed and of per way of asking for both sets, and the two floors."""
        sides = {"mastered_test": self.mastered, "injection_train": self.injection}
        return {
            **{
                side: {name: {"changed": rate.count, "of": rate.of} for name, rate in rates.items()}
                for side, rates in sides.items()
            },
            "floor": {"mastered_test": self.mastered_floor, "injection_train": self.injection_floor},
        }


@dataclass(frozen=True)
class Evidence:
    """All that was measured for a judgement; each None where it was not."""

    comparison: Comparison | None = None
    noise: Noise | None = None


def rightness(verdicts: Sequence[Verdict]) -> dict[str, bool]:
    """Return by item id whether the answer is right; an item that could not be scored is not answered."""
    return {verdict.id: verdict.correct and verdict.error is None for verdict in verdicts}


def changed(usual: Mapping[str, bool], other: Mapping[str, bool]) -> Rate:
    """Count the items of `other` whose verdict differs from the usual one.

    Raises:
        DataError: an item of `other` has no usual verdict.
    """
    if missing := other.keys() - usual.keys():
        raise DataError(f"{len(missing)} items were asked again that have no verdict, e.g. {min(missing)!r}")
    return Rate(sum(usual[key] != value for key, value in other.items()), len(other))
