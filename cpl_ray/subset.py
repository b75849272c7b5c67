"""A part of M train as the mastered set: nested by seed, so that a smaller set is contained in every larger one."""

from dataclasses import replace

from cpl_ray.assessment import Assessment
from cpl_ray.errors import DataError
from cpl_ray.split import place

PART = "mastered_train"


def with_mastered_size(assessment: Assessment, size: int | None, seed: int) -> Assessment:
    """Return the assessment with only `size` rows of M train; the rest of M train is left out of everything.

    A row's place follows from the seed and its question alone: neither the order of the file nor the other rows
    matter. Rows keep file order.

    Args:
        assessment: as it was read.
        size: rows to keep; None: all.
        seed: `split.seed`.

    Raises:
        DataError: M train has fewer rows.
    """
    rows = assessment.parts[PART]
    if size is None or size == len(rows):
        return assessment
    if size > len(rows):
        raise DataError(f"train.mastered_size is {size}, but M train has {len(rows)} items; ask for at most that many")
    keys = [f"size\n{row.item.question_key()}" for row in rows]  # another order than that of the split
    ranked = sorted(range(len(rows)), key=lambda index: (place(seed, keys[index]), index))
    kept = sorted(ranked[:size])
    return replace(assessment, parts={**assessment.parts, PART: [rows[index] for index in kept]})
