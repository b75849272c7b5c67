"""What to choose from the trials of a sweep. Every choice looks at M validation; M test is only ever reported.

Pooled over the seeds of a point: share learned of I (more is better), share forgotten of M validation (less is better).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cpl_ray.config_run import BudgetConfig
from cpl_ray.measures import Rate
from cpl_ray.trials import FORGOTTEN, Trial

SIZE_KEY = "train.mastered_size"


@dataclass(frozen=True)
class PointSummary:
    """A point of the search space, with the rates of all its finished trials pooled."""

    point_id: int
    point: dict[str, Any]
    trials: tuple[Trial, ...]
    learned: Rate
    forgotten: dict[str, Rate]
    """Of M validation, M test (`held_out`) and M train (`in_set`)."""

    @property
    def learned_share(self) -> float:
        """Share of the injection set learned."""
        return self.learned.share or 0.0

    @property
    def forgetting(self) -> float:
        """Share of M validation forgotten, which choices look at; 0 where there is no M validation."""
        return self.forgotten["validation"].share or 0.0

    @property
    def mastered_size(self) -> int:
        """Items of M train that were trained on."""
        return self.trials[0].mastered_size or 0

    def inside(self, budget: BudgetConfig) -> bool:
        """Tell whether learning and validation forgetting are within the budget."""
        return self.forgetting <= budget.max_forgetting and self.learned_share >= budget.min_learned

    def to_dict(self, *, pareto: bool) -> dict[str, Any]:
        """Return the point for sweep.json."""
        spread = {"learned": _spread(trial.learned for trial in self.trials)}
        for part in ("validation", "held_out"):
            spread[f"forgotten_{part}"] = _spread(trial.forgotten[part] for trial in self.trials)
        return {
            "point_id": self.point_id,
            "point": self.point,
            "trials": [trial.index for trial in self.trials],
            "learned": self.learned.to_dict(),
            "forgotten": {part: rate.to_dict() for part, rate in self.forgotten.items()},
            "spread": spread,
            "pareto": pareto,
        }


def summarise_points(trials: Iterable[Trial]) -> list[PointSummary]:
    """Return the points whose trials have all finished, in order; others cannot be compared with them."""
    by_point: dict[int, list[Trial]] = {}
    for trial in trials:
        by_point.setdefault(trial.point_id, []).append(trial)
    return [
        PointSummary(
            point_id,
            own[0].point,
            tuple(own),
            _pooled(trial.learned for trial in own),
            {part: _pooled(trial.forgotten[part] for trial in own) for part in FORGOTTEN},
        )
        for point_id, own in sorted(by_point.items())
        if all(trial.state == "finished" for trial in own)
    ]


def pareto_front(points: Sequence[PointSummary]) -> list[PointSummary]:
    """Return the points that no other point beats: none learns as much and forgets as little, and one of them better.

    Equal points stay together. Ordered by forgetting, then by learning.
    """
    front: list[PointSummary] = []
    for one in sorted(points, key=lambda one: (one.forgetting, -one.learned_share, one.point_id)):
        # all before it forget no more, so it has to learn more than the last of the front, or be its equal
        last = front[-1] if front else None
        equal = last is not None and (last.forgetting, last.learned_share) == (one.forgetting, one.learned_share)
        if last is None or one.learned_share > last.learned_share or equal:
            front.append(one)
    return front


def choose(points: Sequence[PointSummary], budget: BudgetConfig) -> tuple[PointSummary | None, str]:
    """Return the knee of the Pareto front inside the budget, and why; None where nothing is inside.

    The knee is the point farthest above the line between the ends of the front (learned and forgotten each scaled to
    0..1 between the ends); where no point is above it, the end that forgets less.
    """
    inside = [one for one in pareto_front(points) if one.inside(budget)]
    if not inside:
        return None, _nothing_inside(points, budget)
    low, high = inside[0], inside[-1]
    over_forgetting = high.forgetting - low.forgetting
    over_learned = high.learned_share - low.learned_share

    def above(one: PointSummary) -> float:
        if not over_forgetting or not over_learned:
            return 0.0
        return (one.learned_share - low.learned_share) / over_learned - (
            one.forgetting - low.forgetting
        ) / over_forgetting

    best = max(inside, key=lambda one: (above(one), -one.forgetting, -one.point_id))
    told = "the knee of" if above(best) > 0 else "the least forgetting on"
    count = f"{len(inside)} point{'s' if len(inside) > 1 else ''} of the Pareto front inside the budget"
    return best, f"{told} the {count}: {describe(best)}"


def by_size(points: Sequence[PointSummary], budget: BudgetConfig) -> list[PointSummary]:
    """Return for every mastered-set size its best point: inside the budget if one is, then by validation forgetting."""
    best: dict[int, PointSummary] = {}
    for one in points:
        other = best.get(one.mastered_size)
        if other is None or _merit(one, budget) > _merit(other, budget):
            best[one.mastered_size] = one
    return [best[size] for size in sorted(best)]


def smallest_inside(sizes: Sequence[PointSummary], budget: BudgetConfig) -> dict[str, Any] | None:
    """Return the smallest mastered set that is inside the budget, and what is known of it; None if none is."""
    found = next((one for one in sizes if one.inside(budget)), None)
    if found is None:
        return None
    held_out = found.forgotten["held_out"]
    high = held_out.interval()
    limit = f"{100 * budget.max_forgetting:g} %"
    if high is None:
        judged = "nothing is known of its held-out forgetting: M test is empty"
    else:
        judged = f"the upper end of the interval is {'inside' if high[1] <= budget.max_forgetting else 'above'} {limit}"
    text = f"{found.mastered_size} mastered items are enough for a budget of {limit}: {describe(found)}; {judged}"
    return {"mastered_size": found.mastered_size, "point_id": found.point_id, "text": text}


def describe(one: PointSummary) -> str:
    """Say in one line what a point learned and forgot."""
    said = [f"learned {_said(one.learned)}", f"forgotten of validation {_said(one.forgotten['validation'])}"]
    held_out = one.forgotten["held_out"]
    interval = held_out.interval()
    if interval is not None:
        said.append(f"held-out {_said(held_out)}, 95 % interval {100 * interval[0]:.1f}–{100 * interval[1]:.1f} %")
    return ", ".join(said)


def _merit(one: PointSummary, budget: BudgetConfig) -> tuple[bool, bool, float, float]:
    return one.inside(budget), one.learned_share >= budget.min_learned, -one.forgetting, one.learned_share


def _nothing_inside(points: Sequence[PointSummary], budget: BudgetConfig) -> str:
    if not points:
        return "no point has finished"
    nearest = max(points, key=lambda one: _merit(one, budget))
    return (
        f"no point is inside the budget (forgotten at most {100 * budget.max_forgetting:g} %, learned at least "
        f"{100 * budget.min_learned:g} %); nearest is point {nearest.point_id}: {describe(nearest)}"
    )


def _said(rate: Rate) -> str:
    return f"{rate.count} of {rate.of}" + (f" ({100 * rate.share:.1f} %)" if rate.share is not None else "")


def _pooled(rates: Iterable[Rate]) -> Rate:
    known = list(rates)
    return Rate(sum(rate.count for rate in known), sum(rate.of for rate in known))


def _spread(rates: Iterable[Rate]) -> list[float] | None:
    shares = [rate.share for rate in rates if rate.share is not None]
    return [min(shares), max(shares)] if shares else None
