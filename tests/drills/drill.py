"""What is written down of one drill."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Drill:
    """What was done and what came of it."""

    kind: str
    verb: str
    at_s: float
    """Seconds after the start of the command."""
    found: bool
    """Whether there was something to hit."""
    stage: str
    """What the run folder held at that moment."""
    updates: int
    """Updates in metrics.jsonl at that moment."""
    exit_codes: list[int]
    """Of the command and of each continuation."""
    faults: list[str]
    """What differs from an undisturbed run; empty: survived."""
    seconds: float
    messages: list[str] = field(default_factory=list)
    """The last line that each failed command printed."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
