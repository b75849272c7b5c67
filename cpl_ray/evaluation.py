"""Evaluation during training: each rank scores its slice of the items with the live model, counts are summed."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from cpl_ray.collectives import Collectives
from cpl_ray.items import Item
from cpl_ray.measures import COUNTS
from cpl_ray.predict import Scorer


@dataclass(frozen=True)
class ScoredItem:
    """An item to be followed during training."""

    item: Item
    part: str
    correct_before: bool


def followed(part: str, correct_before: bool) -> bool:
    """Tell whether an item counts: injection items that were wrong, mastered items that were right before training.

    Test and held-out items are never looked at during training.
    """
    return part in COUNTS and correct_before == part.startswith("mastered")


class Evaluator:
    """Counts learned and forgotten items of the live model.

    Args:
        items: all items, the same on every rank; those that do not count are left out here.
        scorer: the scorer that also made the split.
        comm: sums over ranks.
    """

    def __init__(self, items: Sequence[ScoredItem], scorer: Scorer, comm: Collectives) -> None:
        self._counted = [row for row in items if followed(row.part, row.correct_before)]
        self._scorer, self._comm = scorer, comm

    def run(self, module: nn.Module) -> dict[str, float]:
        """Return `learned`, `forgotten_in_set`, `forgotten_validation` and each with `_of`; all ranks must call."""
        mine = self._counted[self._comm.rank :: self._comm.world_size]
        verdicts = self._scorer.score(module, [row.item for row in mine], sync_max=self._comm.max, brief=True)
        names = list(COUNTS.values())
        flips = dict.fromkeys(names, 0.0)
        totals = dict.fromkeys(names, 0.0)
        for row, verdict in zip(mine, verdicts, strict=True):
            totals[COUNTS[row.part]] += 1
            flips[COUNTS[row.part]] += verdict.correct != row.correct_before
        sums = self._comm.sum([*flips.values(), *totals.values()])
        flipped = dict(zip(names, sums[: len(names)], strict=True))
        return flipped | {f"{name}_of": total for name, total in zip(names, sums[len(names) :], strict=True)}
