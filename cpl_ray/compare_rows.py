"""The tables of a comparison: methods at equal learning, and inside a forgetting budget, pooled over seeds.

Every number of forgetting that is reported or tested is one of M test.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from cpl_ray.compare_choice import Measured, pooled
from cpl_ray.measures import TwoByTwo, two_by_two

Forgotten = Mapping[int, Mapping[str, bool]]
"""By training seed and item of M test: whether it was forgotten."""
_PARTS = ("held_out", "validation", "in_set")
_SIGNIFICANT = 0.05


def at_target_row(runs: Sequence[Measured]) -> dict[str, Any]:
    """Return a method's row at equal learning.

    Args:
        runs: its chosen rate with each seed, at least one.
    """
    trials = [one.trial for one in runs]
    forgotten = {part: pooled([trial.forgotten[part] for trial in trials]) for part in _PARTS}
    return {
        **_about(runs),
        "reached": [one.reached for one in runs],
        "learned": pooled([trial.learned for trial in trials]).to_dict(),
        "learned_per_seed": [trial.learned.count for trial in trials],
        "forgotten": {part: rate.to_dict() for part, rate in forgotten.items()},
        "held_out_per_seed": [trial.forgotten["held_out"].count for trial in trials],
        "updates": [one.steps for one in runs],
        **{
            name: _median([one.result.get(name) for one in runs])
            for name in ("seconds_per_update", "state_bytes_per_param", "peak_memory_bytes")
        },
    }


def inside_row(runs: Sequence[Measured]) -> dict[str, Any]:
    """Return a method's row inside the forgetting budget; `runs` as in `at_target_row`."""
    learned = [one.learned_inside for one in runs]
    forgotten = {part: [one.forgotten_inside(part) for one in runs] for part in _PARTS}
    return {
        **_about(runs),
        "learned": pooled(learned).to_dict(),
        "learned_per_seed": [rate.count for rate in learned],
        "forgotten": {part: pooled(rates).to_dict() for part, rates in forgotten.items()},
        "held_out_per_seed": [rate.count for rate in forgotten["held_out"]],
        "updates": [one.inside["step"] if one.inside is not None else None for one in runs],
    }


def paired(first: Forgotten, second: Forgotten) -> TwoByTwo | None:
    """Count the items of M test forgotten under both methods, under one and under neither, over the seeds of both.

    An item counts once for each seed: the exact McNemar test of the sums takes the pairs as independent.

    Raises:
        DataError: the two were not measured on the same items.
    """
    seeds = [seed for seed in first if seed in second]
    tables = [two_by_two(first[seed], second[seed]) for seed in seeds]
    if not tables:
        return None
    cells = ("both", "only_first", "only_second", "neither")
    return TwoByTwo(*(sum(vars(table)[cell] for table in tables) for cell in cells))


def in_order(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return methods by held-out forgetting; those that did not reach the target with every seed come after, as what
    learns nothing forgets nothing, and those without a measured trial last."""

    def place(row: Mapping[str, Any]) -> tuple[float, ...]:
        found = row["at_target"]
        if found is None:
            return (2.0,)
        late = 0.0 if all(found["reached"]) else 1.0
        return (late, found["forgotten"]["held_out"]["share"] or 0.0, -(found["learned"]["share"] or 0.0))

    return sorted(rows, key=place)


def verdicts(rows: Sequence[Mapping[str, Any]], reference: str | None, max_forgetting: float) -> list[str]:
    """Say how the reference stands against each other method, in sentences; empty without a measured reference."""
    own = next((row for row in rows if row["method"] == reference), None)
    if own is None or own["at_target"] is None:
        return []
    others = [row for row in rows if row is not own and row["at_target"] is not None]
    said = [_against(own, row) for row in others]
    rivals = [row for row in others if not row["is_rule"]]
    return [*said, *([_inside(own, rivals, max_forgetting)] if rivals else [])]


def _against(own: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Say in a sentence whether the other method forgets more of M test than the reference."""
    mine, theirs = own["at_target"], other["at_target"]
    name, ours = other["method"], own["method"]
    counts = f"{_counted(theirs['forgotten']['held_out'])} against {_counted(mine['forgotten']['held_out'])} of {ours}"
    for who, row in ((name, theirs), (ours, mine)):
        if not all(row["reached"]):
            missed = row["reached"].count(False)
            return (
                f"{name} and {ours} did not learn equally much, so their forgetting says little: {who} missed the "
                f"learned target with {missed} of {len(row['reached'])} seeds; forgotten held-out {counts}"
            )
    test = other["mcnemar"]
    if test is None:
        return f"{name} and {ours} have no seed in common; forgotten held-out {counts}"
    p = f"McNemar p = {test['mcnemar_p']:.2g}"
    if test["only_second"] > test["only_first"]:
        sure = "forgets more than" if test["mcnemar_p"] < _SIGNIFICANT else "is not shown to be worse than"
    elif test["only_second"] < test["only_first"]:
        sure = "is not worse: it forgets less than"
        sure += "" if test["mcnemar_p"] < _SIGNIFICANT else " (though that may be chance)"
    else:
        sure = "is not worse: it forgets as much as"
    return f"{name} {sure} {ours}: held-out {counts}, {p}"


def _inside(own: Mapping[str, Any], rivals: Sequence[Mapping[str, Any]], max_forgetting: float) -> str:
    """Say how much more or less the reference learns inside the budget than the best rival."""
    best = max(rivals, key=lambda row: row["inside"]["learned"]["share"] or 0.0)
    mine, theirs = own["inside"]["learned"], best["inside"]["learned"]
    counts = f"{_counted(mine)} against {_counted(theirs)}"
    where = f"inside {100 * max_forgetting:g} % forgetting of M validation"
    name, rival = own["method"], best["method"]
    if not theirs["share"]:
        return f"{where} no rival learns anything; {name} learns {_counted(mine)}"
    ratio = (mine["share"] or 0.0) / theirs["share"] - 1.0
    if not ratio:
        return f"{where} {name} learns as much as the best rival, {rival}: {counts}"
    word = "more" if ratio > 0 else "less"
    return f"{where} {name} learns {100 * abs(ratio):.1f} % {word} than the best rival, {rival}: {counts}"


def _about(runs: Sequence[Measured]) -> dict[str, Any]:
    trials = [one.trial for one in runs]
    return {"lr": runs[0].rate, "trials": [one.index for one in trials], "seeds": [one.seed for one in trials]}


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _counted(rate: Mapping[str, Any]) -> str:
    return f"{rate['count']} of {rate['of']}"
