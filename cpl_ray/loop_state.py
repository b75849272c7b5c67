"""What a training loop knows of itself between updates, and a checkpoint keeps."""

from dataclasses import dataclass, field

PARTS = ("updates", "evaluations", "checkpoints")


@dataclass
class LoopState:
    """What a checkpoint holds of the loop."""

    step: int = 0
    """Updates done."""
    planned: int = 0
    """Updates that were planned when the training began, on which the form of its steps depends."""
    captures: int = 0
    """Mastered gradients captured."""
    stopped: bool = False
    """Whether the learned target was reached."""
    evaluations: int = 0
    """Evaluations done."""
    moved_against: float = 0.0
    """Stored values that moved against g_M, summed over updates; 0 with the mask on the update."""
    guard: dict[str, int] = field(default_factory=dict)
    """Updates that the guard watched, by outcome; empty without one."""
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    last_evaluation: dict[str, float] = field(default_factory=dict)
    inside_budget: dict[str, float] = field(default_factory=dict)
    """The evaluation that learned most inside the forgetting budget; its model was kept."""
    job: str = field(default="", compare=False)
    """What these updates were begun by; workers that are started again go on with the same."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0), compare=False)
    """Where the time of this job went, but for updates lost with a worker."""

    def mean(self, name: str) -> float | None:
        """Return the mean over updates of a share, or None if it was never measured."""
        return self.sums[name] / self.counts[name] if self.counts.get(name) else None
