"""How well a number tells two groups apart: the area under the ROC curve, with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import mannwhitneyu, norm, rankdata


@dataclass(frozen=True)
class Auc:
    """The probability that a random member of the group scores above a random other, ties counted half."""

    value: float
    low: float
    """Of the 95 % interval; equal to `value` where the groups do not overlap at all (DeLong's variance is then 0)."""
    high: float
    p_value: float
    """Two-sided Mann-Whitney p of the hypothesis that the score tells nothing."""
    num_in: int
    num_out: int


def auc(scores: Sequence[float], group: Sequence[bool], *, level: float = 0.95) -> Auc | None:
    """Return the area under the ROC curve (Mann-Whitney's U by the number of pairs) with DeLong's interval.

    The variance is that of DeLong et al. (Biometrics 44, 1988, 837-845), by midranks (Sun and Xu, IEEE SPL 21, 2014).

    Args:
        scores: one for each item; larger should mean in the group.
        group: whether the item is in it.
        level: confidence in (0, 1).

    Returns:
        None where the group is empty or holds all items, or has one member so that no variance is known.
    """
    values, inside = np.asarray(scores, dtype=float), np.asarray(group, dtype=bool)
    ours, others = values[inside], values[~inside]
    m, n = len(ours), len(others)
    if m < 2 or n < 2:
        return None
    ranks = rankdata(values)
    of_ours = (ranks[inside] - rankdata(ours)) / n  # share of the others below each of ours, ties half
    of_others = 1.0 - (ranks[~inside] - rankdata(others)) / m
    value = float(of_ours.mean())
    deviation = float(np.sqrt(of_ours.var(ddof=1) / m + of_others.var(ddof=1) / n))
    reach = float(norm.ppf(0.5 + level / 2)) * deviation
    p_value = float(mannwhitneyu(ours, others, alternative="two-sided").pvalue)
    return Auc(value, max(0.0, value - reach), min(1.0, value + reach), p_value, m, n)
