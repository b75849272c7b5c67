"""Which rate of a method meets the others. Choices look at M validation and at what was learned, never at M test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cpl_ray.contenders import RATE
from cpl_ray.measures import Rate
from cpl_ray.trials import Trial


@dataclass(frozen=True)
class Measured:
    """A finished trial of a method with its result.json."""

    trial: Trial
    result: Mapping[str, Any]

    @property
    def rate(self) -> float:
        """Learning rate."""
        return float(self.trial.point[RATE])

    @property
    def reached(self) -> bool:
        """Whether training stopped at the learned target."""
        return bool(self.result["stopped_at_learned"])

    @property
    def forgotten(self) -> int:
        """Forgotten items of M validation."""
        return self.trial.forgotten["validation"].count

    @property
    def steps(self) -> int:
        """Updates done."""
        return self.trial.steps or 0

    @property
    def inside(self) -> Mapping[str, Any] | None:
        """What the model kept inside the forgetting budget did; None where no evaluation was inside."""
        found: Mapping[str, Any] | None = self.result.get("inside_budget")
        return found

    @property
    def learned_inside(self) -> Rate:
        """What was learned inside the budget: nothing where no evaluation was inside, as by the untrained model."""
        return Rate(0, self.trial.learned.of) if self.inside is None else rate_of(self.inside["learned"])

    def forgotten_inside(self, part: str) -> Rate:
        """Return what the model kept inside the budget forgot of `held_out`, `validation` or `in_set`."""
        if self.inside is None:
            return Rate(0, self.trial.forgotten[part].of)
        return rate_of(self.inside["forgotten"][part])


def best_at_target(tries: Sequence[Measured]) -> tuple[Measured | None, str]:
    """Return the rate for the comparison at equal learning, and why.

    Of the rates that reached the target the one that forgot least of M validation (then: learned more, took fewer
    updates); where none reached it, the one that learned most (then: forgot less, took fewer updates).
    """
    reached = [one for one in tries if one.reached]
    if reached:
        best = min(reached, key=lambda one: (one.forgotten, -one.trial.learned.count, one.steps, one.rate))
        count = f"{len(reached)} of {len(tries)} rates reached the target"
        return best, f"{count}; this one forgot least of M validation: {_said(best.trial.forgotten['validation'])}"
    if not tries:
        return None, "no rate has been measured"
    best = min(tries, key=lambda one: (-one.trial.learned.count, one.forgotten, one.steps, one.rate))
    return best, f"no rate reached the target; this one learned most: {_said(best.trial.learned)}"


def best_inside(tries: Sequence[Measured]) -> Measured | None:
    """Return the rate that learned most while forgetting of M validation was inside the budget.

    Ties: forgot less of M validation, took fewer updates. None where nothing was measured.
    """

    def merit(one: Measured) -> tuple[float, ...]:
        steps = one.inside["step"] if one.inside is not None else 0
        return (-one.learned_inside.count, one.forgotten_inside("validation").count, steps, one.rate)

    return min(tries, key=merit, default=None)


def rate_of(saved: Mapping[str, Any]) -> Rate:
    """Return a rate of result.json."""
    return Rate(saved["count"], saved["of"])


def pooled(rates: Sequence[Rate]) -> Rate:
    """Return the rate over all seeds together: an item counts once for each."""
    return Rate(sum(rate.count for rate in rates), sum(rate.of for rate in rates))


def _said(rate: Rate) -> str:
    return f"{rate.count} of {rate.of}"
