"""Learning-rate schedules, a pure function of the update's index: captures do not count."""

import math


def planned_updates(steps_per_epoch: int, epochs: int, max_steps: int | None) -> int:
    """Return the updates after which training ends at the latest; a learned target may end it earlier."""
    planned = epochs * steps_per_epoch
    return planned if max_steps is None else min(planned, max_steps)


def learning_rate(peak: float, schedule: str, step: int, total_steps: int, warmup_steps: int) -> float:
    """Return the rate of update `step` (0-based).

    Args:
        peak: the rate after warm-up.
        schedule: `constant`, `linear` or `cosine`; the latter two fall to zero at `total_steps`.
        step: updates done so far.
        total_steps: planned updates of the run.
        warmup_steps: updates over which the rate rises linearly; the first has peak / warmup_steps.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    left = (total_steps - step) / max(1, total_steps - warmup_steps)
    if schedule == "linear":
        return peak * left
    if schedule == "cosine":
        return peak * 0.5 * (1.0 + math.cos(math.pi * (1.0 - left)))
    return peak
