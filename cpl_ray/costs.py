"""What a training cost: seconds of an update, bytes of memory."""

from collections.abc import Sequence
from statistics import median

from cpl_ray.metrics_log import Record


def training_costs(updates: Sequence[Record]) -> dict[str, float | None]:
    """Return what the `train` records of a run say about its cost.

    Returns:
        `seconds_per_update`: median wall time of an update, mastered passes included and evaluations not;
        `peak_memory_bytes`: of the worker that took most. None where no record has it.
    """
    seconds = [record.values["seconds"] for record in updates if "seconds" in record.values]
    peaks = [record.values["memory_bytes"] for record in updates if "memory_bytes" in record.values]
    return {
        "seconds_per_update": median(seconds) if seconds else None,
        "peak_memory_bytes": max(peaks, default=None),
    }
