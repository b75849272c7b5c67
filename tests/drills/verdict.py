"""What a round of drills comes to: only a drill that hit says anything."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.drills.drill import Drill


@dataclass(frozen=True)
class Verdict:
    """Counts of drills, and what was wanted and never hit."""

    hit: int
    survived: int
    not_hit: int
    skipped: int
    missing: tuple[str, ...]
    """Jobs, kinds and stages of which no drill hit, though this machine can do them."""

    @property
    def exit_code(self) -> int:
        """0 if something was hit, all that was hit survived, and nothing is missing; else 1."""
        return 0 if self.hit and self.survived == self.hit and not self.missing else 1

    def __str__(self) -> str:
        return f"{self.hit} hit, {self.survived} survived, {self.not_hit} not hit, {self.skipped} skipped"


def verdict(drills: Sequence[Drill]) -> Verdict:
    """Count drills; one that this machine cannot do is skipped, and neither survived nor missing."""
    done = [drill for drill in drills if not drill.skipped]
    hit = [drill for drill in done if drill.found]
    wanted, reached = ({(one.verb, one.kind, one.aim): None for one in some} for some in (done, hit))
    return Verdict(
        hit=len(hit),
        survived=sum(drill.survived for drill in hit),
        not_hit=len(done) - len(hit),
        skipped=len(drills) - len(done),
        missing=tuple(", ".join(filter(None, cell)) for cell in wanted if cell not in reached),
    )
