"""The release gate: is a measured model within the budget, and no worse than the present champion? Pure.

Moving the alias is in `promotion.py`; what is tested and why: docs/gate.md.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cpl_ray.config import BudgetConfig
from cpl_ray.evidence import Comparison, Noise


@dataclass(frozen=True)
class GateVerdict:
    """What the gate says about one model."""

    admitted: bool
    """True: within the budget and no worse than the champion; the model may become champion."""
    reasons: list[str] = field(default_factory=list)
    """Why not, one sentence each; empty where admitted."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """What was compared: measured shares with count and of, the limits, champion and noise where they were measured."""
    warnings: list[str] = field(default_factory=list)
    """What to know about the verdict, one sentence each; they change nothing."""
    close_call: bool = False
    """The verdict on the budget would be another if as many verdicts changed as the noise floor has."""
    worse_than_champion: bool = False
    """The comparison with the champion is among the reasons."""

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict for result.json."""
        return asdict(self)

    def summary(self) -> str:
        """Return the verdict in one line."""
        verdict = "admitted: within the budget" if self.admitted else "refused: " + "; ".join(self.reasons)
        return verdict + (" (a close call)" if self.close_call else "")

    def details(self) -> list[str]:
        """Return the numbers for people: the rates, the champion, the noise floor; each where it was measured."""
        rates = (
            ("forgotten held-out", self.numbers.get("forgotten_held_out")),
            ("learned", self.numbers.get("learned")),
        )
        lines = [", ".join(f"{name} {_said(rate)}" for name, rate in rates if rate)]
        if champion := self.numbers.get("champion"):
            lines.append(
                f"against champion version {champion['version']} on M test: both {champion['both']}, only this model "
                f"{champion['only_candidate']}, only the champion {champion['only_champion']}, neither "
                f"{champion['neither']}, exact McNemar p {champion['mcnemar_p']:.2g}"
            )
        if noise := self.numbers.get("noise"):
            sides = (("M test", "mastered_test"), ("injection", "injection_train"))
            said = [
                f"{label}: " + ", ".join(f"{name} {rate['changed']} of {rate['of']}" for name, rate in rates.items())
                for label, side in sides
                if (rates := noise[side])
            ]
            lines.append("verdicts that change with the way of asking: " + "; ".join(said))
        return [line for line in lines if line]


def judge(
    result: Mapping[str, Any],
    budget: BudgetConfig,
    comparison: Comparison | None = None,
    noise: Noise | None = None,
) -> GateVerdict:
    """Judge a result by its held-out forgetting, its learned share and, where there is one, the present champion.

    Only numbers on items that neither training nor any choice has seen count: where M test is missing or empty, the
    model is refused, since nothing is known about what it forgot.

    Args:
        result: content of result.json; may lack parts.
        budget: the limits; a share equal to its limit is within it.
        comparison: candidate and champion on M test; None: there is no other champion, or it was not asked.
        noise: how verdicts on the candidate change with the way of asking; None: not measured.
    """
    forgetting = result.get("forgotten")
    forgotten = _share(forgetting.get("held_out") if isinstance(forgetting, Mapping) else None)
    learned = _share(result.get("learned"))
    reasons, warnings = [], []
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
    close = _close_calls(forgotten, learned, budget, noise) if noise is not None else []
    warnings += close
    worse = False
    if comparison is not None:
        worse, said = _against_champion(comparison, budget.alpha, noise.mastered_floor if noise else 0)
        (reasons if worse else warnings).extend(said)
    numbers = {
        "forgotten_held_out": forgotten,
        "learned": learned,
        "max_forgetting": budget.max_forgetting,
        "min_learned": budget.min_learned,
        "alpha": budget.alpha,
        "champion": None if comparison is None else comparison.to_dict(),
        "noise": None if noise is None else noise.to_dict(),
    }
    return GateVerdict(not reasons, reasons, numbers, warnings, bool(close), worse)


def _against_champion(comparison: Comparison, alpha: float, floor: int) -> tuple[bool, list[str]]:
    """Tell whether the candidate is worse than the champion, and what is to be said about it."""
    table = comparison.table
    behind = table.only_second - table.only_first
    significant = behind > 0 and table.p_value < alpha
    what = (
        f"champion version {comparison.version} answers {table.second.count} of {table.of} of M test, this model "
        f"{table.first.count} (only the champion {table.only_second}, only this one {table.only_first}, "
        f"exact McNemar p {table.p_value:.2g})"
    )
    if significant and comparison.champion_is_base:
        return False, [f"{what}; the model was trained from that champion, so this is its forgetting, see the budget"]
    if significant and behind <= floor:
        return False, [f"{what}; not counted: so many verdicts ({floor}) change with the way of asking alone"]
    if significant:
        return True, [f"{what}: significantly worse (budget.alpha {alpha:g})"]
    if comparison.same_test_set is False:
        return False, [
            f"champion version {comparison.version} was measured on another M test and may have been trained on "
            "items of this one"
        ]
    return False, []


def _close_calls(
    forgotten: Mapping[str, Any] | None, learned: Mapping[str, Any] | None, budget: BudgetConfig, noise: Noise
) -> list[str]:
    """Say which limit would be met or missed the other way round if as many verdicts changed as the noise floor."""
    said = []
    if forgotten is not None:
        floor = noise.mastered_floor
        within = forgotten["share"] <= budget.max_forgetting
        other = _moved(forgotten, floor if within else -floor)
        if within != (other <= budget.max_forgetting):
            said.append(_close("forgotten held-out", forgotten, "budget.max_forgetting", budget.max_forgetting, floor))
    if learned is not None:
        floor = noise.injection_floor
        within = learned["share"] >= budget.min_learned
        other = _moved(learned, -floor if within else floor)
        if within != (other >= budget.min_learned):
            said.append(_close("learned", learned, "budget.min_learned", budget.min_learned, floor))
    return said


def _moved(rate: Mapping[str, Any], by: int) -> float:
    """Return the share that `by` more (or fewer) items would make."""
    share: float = min(max(rate["count"] + by, 0), rate["of"]) / rate["of"]
    return share


def _close(what: str, rate: Mapping[str, Any], limit_name: str, limit: float, floor: int) -> str:
    return (
        f"close call: {what} {_said(rate)} is no further from {limit_name} {_percent(limit)} than the {floor} "
        "verdicts that change with the way of asking alone"
    )


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
