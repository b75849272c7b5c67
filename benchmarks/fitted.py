"""A cost at several sizes, and the straight line through it."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Line:
    """Least squares over sizes; `exponent` is the slope of the same points in logarithms."""

    slope: float
    intercept: float
    r2: float
    exponent: float
    """1: linear. Below 1 where the intercept matters. NaN where a value is not positive."""


@dataclass(frozen=True)
class Series:
    """One cost against one size.

    Attributes:
        name: What is measured.
        size: What the size counts.
        cost: What the cost is, with its unit.
        points: (size, cost), ascending.
        grows: Whether a line is meant; False: the costs are only listed.
    """

    name: str
    size: str
    cost: str
    points: Sequence[tuple[float, float]]
    grows: bool = True

    def line(self) -> Line | None:
        """Return the fitted line; None for fewer than three sizes or where none is meant."""
        return fit(self.points) if self.grows and len(self.points) > 2 else None

    def to_dict(self) -> dict[str, Any]:
        """Return points and line as JSON has them."""
        line = self.line()
        return {**asdict(self), "line": None if line is None else asdict(line)}


def fit(points: Sequence[tuple[float, float]]) -> Line:
    """Fit a line through (size, cost); sizes are positive and not all equal."""
    sizes, costs = np.array(points, dtype=np.float64).T
    slope, intercept = np.polyfit(sizes, costs, 1)
    spread = float(((costs - costs.mean()) ** 2).sum())
    left = float(((costs - slope * sizes - intercept) ** 2).sum())
    positive = bool((costs > 0).all())
    exponent = float(np.polyfit(np.log(sizes), np.log(costs), 1)[0]) if positive else math.nan
    return Line(float(slope), float(intercept), 1.0 - left / spread if spread else 1.0, exponent)
