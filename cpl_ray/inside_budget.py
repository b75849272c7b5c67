"""Which model of a training to keep inside a forgetting budget: the one that learned most before too much was lost.

The evaluations during training decide, and they see M validation only.
"""

from collections.abc import Mapping
from pathlib import Path

INSIDE_BUDGET = Path("train", "inside_budget")
"""Where the kept model lies in a run folder."""


def learns_more_inside(record: Mapping[str, float], best: Mapping[str, float], max_forgetting: float) -> bool:
    """Tell whether an evaluation is inside the budget and has learned more than the best so far.

    The first of equals stays. An untrained model has learned nothing and is never kept; nor is any where there is no M
    validation to judge by.

    Args:
        record: counts of an evaluation, see `Evaluator.run`.
        best: the record kept so far, empty if there is none.
        max_forgetting: largest forgotten share of M validation, in [0, 1].
    """
    of = record.get("forgotten_validation_of", 0.0)
    inside = of > 0 and record["forgotten_validation"] <= max_forgetting * of
    return inside and record["learned"] > best.get("learned", 0.0)
