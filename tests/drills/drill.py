"""What is written down of one drill."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Drill:
    """What was done and what came of it."""

    kind: str
    verb: str
    aim: str
    """The stage that was to be hit; empty: any."""
    at_s: float = 0.0
    """Seconds after the start of the command."""
    found: bool
    """Whether there was something to hit."""
    stage: str = ""
    """What the run folder held at that moment."""
    updates: int = 0
    """Updates in metrics.jsonl at that moment."""
    exit_codes: list[int] = field(default_factory=list)
    """Of the command and of each continuation."""
    faults: list[str] = field(default_factory=list)
    """What differs from an undisturbed run; empty, of one that hit: survived."""
    seconds: float = 0.0
    messages: list[str] = field(default_factory=list)
    """The last line that each failed command printed."""
    skipped: str = ""
    """Why this machine cannot do it."""

    @classmethod
    def without_hit(cls, kind: str, verb: str, aim: str = "", *, skipped: str = "") -> "Drill":
        """Return a drill that could not begin."""
        return cls(kind=kind, verb=verb, aim=aim, found=False, skipped=skipped)

    @property
    def survived(self) -> bool:
        return self.found and not self.faults

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
