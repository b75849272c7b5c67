"""How far two maps of classes agree, and how far more than chance would make them."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Overlap:
    """Two classifications of the same parameters, counted: collaborative in both, in one only, in neither."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def total(self) -> int:
        """Number of parameters."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def agreement(self) -> float:
        """Share of the parameters that have the same class in both."""
        return (self.both + self.neither) / self.total

    @property
    def jaccard(self) -> float:
        """Conflicting in both by conflicting in either; 1 where nothing conflicts."""
        either = self.total - self.both
        return self.neither / either if either else 1.0

    @property
    def kappa(self) -> float:
        """Agreement beyond chance by the most there could be (Cohen, Educ. Psychol. Meas. 20, 1960): 1 equal, 0 chance.

        Chance: each map keeps its own shares, and classes are dealt out independently.
        """
        first = (self.both + self.only_first) / self.total
        second = (self.both + self.only_second) / self.total
        chance = first * second + (1 - first) * (1 - second)
        return (self.agreement - chance) / (1 - chance) if not math.isclose(chance, 1.0) else 1.0

    def __add__(self, other: "Overlap") -> "Overlap":
        return Overlap(
            self.both + other.both,
            self.only_first + other.only_first,
            self.only_second + other.only_second,
            self.neither + other.neither,
        )

    def to_dict(self) -> dict[str, float]:
        """Return counts and measures by name."""
        return {**vars(self), "agreement": self.agreement, "jaccard": self.jaccard, "kappa": self.kappa}
