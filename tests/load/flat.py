"""Whether what a process holds stays flat from round to round."""

from collections.abc import Sequence
from typing import Any

from cpl_ray.metrics_log import Record

SETTLED = 1 / 3
"""Part of the rounds that is not counted: allocators and caches fill up first."""
LONG_MINUTES = 30.0
"""From here on growth an hour is measured well enough to be judged; below it, growth a round."""
ALLOWED_MIB_PER_HOUR = 20.0
ALLOWED_BYTES_PER_ROUND = 64 << 10
ALLOWED_OBJECTS_PER_ROUND = 0.8
"""Below one, so that an object which every round leaves behind is found. Six weak references come with each tracked
run, every tenth round, and go together after some hundred."""
ALLOWED_FILES_PER_ROUND = 0.01


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the least-squares line through (x, y)."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def settled(records: Sequence[Record]) -> list[Record]:
    """Return the records after the first third."""
    return list(records[int(len(records) * SETTLED) :])


def judged(records: Sequence[Record], minutes: float) -> dict[str, Any]:
    """Fit lines through what was held after each round and judge their slopes.

    Args:
        records: one a round, with `resident_bytes`, `objects`, `open_files` and `elapsed_s`.
        minutes: how long it was to last.

    Returns:
        Figures, each of a pair after the first third and at the end, and `faults` in words.
    """
    kept = settled(records)
    if len(kept) < 3:
        return {"faults": [f"only {len(records)} rounds in {minutes:g} minutes: give it more"]}

    def over(key: str, x: str | None = None) -> float:
        return slope([(one.values[x] if x else float(one.step), one.values[key]) for one in kept])

    def ends(key: str) -> list[float]:
        return [kept[0].values[key], kept[-1].values[key]]

    hourly = over("resident_bytes", "elapsed_s") * 3600 / 2**20
    each, objects, files = over("resident_bytes"), over("objects"), over("open_files")
    faults = []
    if minutes >= LONG_MINUTES and hourly > ALLOWED_MIB_PER_HOUR:
        faults.append(f"memory grows by {hourly:.1f} MiB an hour, allowed are {ALLOWED_MIB_PER_HOUR:g}")
    if minutes < LONG_MINUTES and each > ALLOWED_BYTES_PER_ROUND:
        faults.append(f"memory grows by {each / 1024:.1f} KiB a round, allowed are {ALLOWED_BYTES_PER_ROUND >> 10}")
    if objects > ALLOWED_OBJECTS_PER_ROUND:
        faults.append(f"objects grow by {objects:.2f} a round, allowed are {ALLOWED_OBJECTS_PER_ROUND:g}")
    if files > ALLOWED_FILES_PER_ROUND:
        faults.append(f"open files grow by {files:.2f} a round")
    return {
        "resident_mib": [round(held / 2**20, 1) for held in ends("resident_bytes")],
        "mib_per_hour": round(hourly, 2),
        "kib_per_round": round(each / 1024, 2),
        "objects": ends("objects"),
        "objects_per_round": round(objects, 2),
        "open_files": ends("open_files"),
        "faults": faults,
    }
