"""The release gate: is a measured model within the budget? Pure; moving the alias is in `registry.py`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cpl_ray.config import BudgetConfig


@dataclass(frozen=True)
class GateVerdict:
    """What the gate says about one model."""

    admitted: bool
    """True: within the budget; the model may become champion."""
    reasons: list[str] = field(default_factory=list)
    """Why not, one sentence each; empty where admitted."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """What was compared: measured shares with count and of, and the limits."""

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict for result.json."""
        return asdict(self)

    def summary(self) -> str:
        """Return the verdict in one line."""
        return "admitted: within the budget" if self.admitted else "refused: " + "; ".join(self.reasons)


def judge(result: Mapping[str, Any], budget: BudgetConfig) -> GateVerdict:
    """Judge a result by its held-out forgetting and its learned share.

    Only numbers on items that neither training nor any choice has seen count: where M test is missing or empty, the
    model is refused, since nothing is known about what it forgot.

    Args:
        result: content of result.json; may lack parts.
        budget: the limits; a share equal to its limit is within it.
    """
    forgetting = result.get("forgotten")
    forgotten = _share(forgetting.get("held_out") if isinstance(forgetting, Mapping) else None)
    learned = _share(result.get("learned"))
    reasons = []
    if forgotten is None:
        reasons.append(
            "forgetting was not measured on held-out mastered items (forgotten.held_out); run `cpl evaluate` with a "
            "non-empty M test (split.mastered_test or data.mastered_held_out)"
        )
    elif forgotten["share"] > budget.max_forgetting:
        reasons.append(
            f"forgotten held-out {_said(forgotten)} is above budget.max_forgetting {_percent(budget.max_forgetting)}"
        )
    if learned is None:
        reasons.append("what was learned was not measured (learned); run `cpl evaluate`")
    elif learned["share"] < budget.min_learned:
        reasons.append(f"learned {_said(learned)} is below budget.min_learned {_percent(budget.min_learned)}")
    numbers = {
        "forgotten_held_out": forgotten,
        "learned": learned,
        "max_forgetting": budget.max_forgetting,
        "min_learned": budget.min_learned,
    }
    return GateVerdict(not reasons, reasons, numbers)


def _share(rate: Any) -> dict[str, Any] | None:
    """Return count, of and their exact share; None where the rate is absent, empty or impossible.

    The share is computed here: a rounded one could fall on the wrong side of the limit.
    """
    if not isinstance(rate, Mapping):
        return None
    count, of = rate.get("count"), rate.get("of")
    if not isinstance(count, int) or not isinstance(of, int) or not 0 <= count <= of or of == 0:
        return None
    return {"count": count, "of": of, "share": count / of}


def _said(rate: Mapping[str, Any]) -> str:
    return f"{_percent(rate['share'])} ({rate['count']} of {rate['of']})"


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"
