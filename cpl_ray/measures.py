"""Counts with exact intervals and paired comparisons: what every reported number is made of."""

from collections.abc import Mapping
from dataclasses import dataclass

from scipy.special import bdtr, betaincinv

from cpl_ray.errors import DataError

COUNTS = {
    "injection_train": "learned",
    "mastered_train": "forgotten_in_set",
    "mastered_validation": "forgotten_validation",
}
"""What evaluations during training count, by part of the assessment."""


@dataclass(frozen=True)
class Rate:
    """A number of items out of a denominator, e.g. forgotten of mastered."""

    count: int
    of: int

    def __post_init__(self) -> None:
        if not 0 <= self.count <= self.of:
            raise ValueError(f"a rate needs 0 <= count <= of; got count {self.count} of {self.of}")

    @property
    def share(self) -> float | None:
        """Return count/of in [0, 1], or None where there is nothing to count."""
        return self.count / self.of if self.of else None

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """Return the Clopper-Pearson interval of the share (Biometrika 26, 1934, 404-413).

        Exact: the true share lies outside with probability at most 1 - level, whatever the count.

        Args:
            level: confidence in (0, 1).

        Returns:
            (low, high) in [0, 1], or None where there is nothing to count.
        """
        if not 0.0 < level < 1.0:
            raise ValueError(f"level must lie between 0 and 1; got {level}")
        if not self.of:
            return None
        tail = (1.0 - level) / 2.0
        low = float(betaincinv(self.count, self.of - self.count + 1, tail)) if self.count else 0.0
        high = float(betaincinv(self.count + 1, self.of - self.count, 1.0 - tail)) if self.count < self.of else 1.0
        return low, high

    def to_dict(self) -> dict[str, int | float | None]:
        """Return count, of, share and the 95 % interval low..high; the last three are None where `of` is 0."""
        low, high = self.interval() or (None, None)
        return {"count": self.count, "of": self.of, "share": self.share, "low": low, "high": high}


@dataclass(frozen=True)
class TwoByTwo:
    """The same items judged twice: before and after training, or under two methods."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def of(self) -> int:
        """Return the number of items."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def first(self) -> Rate:
        """Return how many items hold in the first judgement."""
        return Rate(self.both + self.only_first, self.of)

    @property
    def second(self) -> Rate:
        """Return how many items hold in the second judgement."""
        return Rate(self.both + self.only_second, self.of)

    @property
    def p_value(self) -> float:
        """Return the exact McNemar p-value that both judgements hold equally often."""
        return mcnemar_exact(self.only_first, self.only_second)

    def to_dict(self) -> dict[str, int | float]:
        """Return the four cells and the p-value."""
        cells = {"both": self.both, "only_first": self.only_first}
        return {**cells, "only_second": self.only_second, "neither": self.neither, "mcnemar_p": self.p_value}


def two_by_two(first: Mapping[str, bool], second: Mapping[str, bool]) -> TwoByTwo:
    """Count the items, by id, that hold in both judgements, in one of them and in neither.

    Raises:
        DataError: the two are not about the same items, so that no paired comparison exists.
    """
    if unmatched := first.keys() ^ second.keys():
        raise DataError(
            f"cannot compare item by item: {len(unmatched)} items are in only one of the two results, "
            f"e.g. {min(unmatched)!r}; both must come from the same assessment"
        )
    cells = [(first[key], second[key]) for key in first]
    return TwoByTwo(*(cells.count(cell) for cell in ((True, True), (True, False), (False, True), (False, False))))


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Return the two-sided exact McNemar p-value of the discordant pairs.

    Under equality each discordant pair falls on either side with probability 1/2, so the smaller count is binomial.

    Args:
        only_first: pairs in which only the first holds.
        only_second: pairs in which only the second holds.

    Returns:
        p in (0, 1]; 1 where no pair is discordant.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"counts of pairs cannot be negative; got {only_first} and {only_second}")
    return min(1.0, 2.0 * float(bdtr(min(only_first, only_second), only_first + only_second, 0.5)))


def forgetting_reduction(method: Rate, baseline: Rate) -> float | None:
    """Return 1 - forgotten(method)/forgotten(baseline): 1 is no forgetting, 0 no gain, negative is worse.

    None where either has no items or the baseline forgot nothing.
    """
    if method.share is None or not baseline.share:
        return None
    return 1.0 - method.share / baseline.share
