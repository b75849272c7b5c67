"""What rounds of the rule say about its room: does the collaborative share shrink, and what does a round cost?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from scipy.stats import kendalltau, linregress, t

from cpl_ray.measures import Rate
from cpl_ray.studies.findings import Findings, Number, percent
from cpl_ray.studies.rounds import Rows

TARGET = 0.95
"""Share of a part from which it counts as learned, where `train.stop_at_learned` names none."""
SHARES = ("collaborative_share", "conflict_share", "zero_share")


@dataclass(frozen=True)
class Trend:
    """How a number goes from round to round."""

    slope: float
    """Change per round, by least squares."""
    low: float | None
    """Of the 95 % interval (Student's t, rounds - 2 degrees of freedom); None below three rounds."""
    high: float | None
    tau: float
    """Kendall's rank correlation with the round: -1 falls in every round, 1 rises in every round."""
    p_value: float
    """Of no trend: exact without ties. Three rounds cannot fall below 0.33, four not below 0.083."""


def trend(values: Sequence[float]) -> Trend:
    """Return the trend of two values or more, the first of round 1.

    Raises:
        ValueError: there is one value only.
    """
    if len(values) < 2:
        raise ValueError(f"a trend needs two rounds; got {len(values)}")
    places = range(len(values))
    fit = linregress(places, values)
    slope = float(fit.slope)
    freedom = len(values) - 2
    low = high = None
    if freedom:
        reach = float(t.ppf(0.975, freedom) * fit.stderr)
        low, high = slope - reach, slope + reach
    if min(values) == max(values):  # no order, and scipy's tau is NaN
        return Trend(slope, low, high, 0.0, 1.0)
    ranks = kendalltau(places, values)
    return Trend(slope, low, high, float(ranks.statistic), float(ranks.pvalue))


def updates_to_learn(evaluations: Sequence[tuple[int, float]], target: float) -> int | None:
    """Return the update of the first evaluation, as (update, share learned), that reaches `target`; None: none does."""
    return next((step for step, share in evaluations if share >= target), None)


def with_shares(rounds: Sequence[Mapping[str, Any]], updates: Sequence[Mapping[str, Any]]) -> Rows:
    """Return the rows of `rounds` with the collaborative share of their updates.

    Adds `share_first`, `share_last`, `share_mean`, and `share_window`: the mean over as many first updates as the
    shortest round has, so that long rounds are not compared with short ones; `zero_window` is that part of it which is
    exactly zero.
    """
    by_round: dict[int, list[float]] = {}
    zeros: dict[int, list[float]] = {}
    for row in sorted(updates, key=lambda row: (row["round"], row["step"])):
        by_round.setdefault(row["round"], []).append(row["collaborative_share"])
        zeros.setdefault(row["round"], []).append(row["zero_share"])
    window = min(len(shares) for shares in by_round.values())
    found = []
    for row in rounds:
        shares = by_round[row["round"]]
        ends = {"share_first": shares[0], "share_last": shares[-1], "share_mean": _mean(shares)}
        found.append({**row, **ends, "share_window": _mean(shares[:window]), "window": window})
        found[-1]["zero_window"] = _mean(zeros[row["round"]][:window])
    return found


def analyse(rounds: Rows, updates: Rows, *, target: float, keep_learned: bool) -> Findings:
    """Return headline, verdict and the tables `rounds` and `updates`.

    Args:
        rounds: by round: `round`, `injected`, `mastered` (rows of M train in it), `updates`, `train_s`,
            `updates_to_learn` (null: not reached), `learned` of `learned_of`, `forgotten` of `forgotten_of` (M test,
            since the base model), `survived` of `survived_of` (parts of earlier rounds).
        updates: by round and update: `round`, `step` and `SHARES`.
        target: share of a part that counts as learned.
        keep_learned: whether learned items joined the mastered set.
    """
    whole = with_shares(rounds, updates)
    found = trend([row["share_window"] for row in whole])
    lost = [Rate(row["forgotten"], row["forgotten_of"]) for row in whole]
    shares = [rate.share for rate in lost if rate.share is not None]
    headline: dict[str, Number] = {
        "rounds": len(whole),
        "share_first_round": whole[0]["share_window"],
        "share_last_round": whole[-1]["share_window"],
        "slope": found.slope,
        "slope_low": found.low,
        "slope_high": found.high,
        "kendall_tau": found.tau,
        "kendall_p": found.p_value,
        "change_within_round": _mean([row["share_last"] - row["share_first"] for row in whole]),
        "updates_per_round": _mean([row["updates"] for row in whole]),
        "seconds_per_round": _mean([row["train_s"] for row in whole]),
        "forgotten_per_further_round": (shares[-1] - shares[0]) / (len(shares) - 1) if len(shares) > 1 else None,
    }
    sentences = [_share(whole, found, keep_learned), _within(whole, headline), _cost(whole, lost, target, headline)]
    tables = {"rounds": pa.Table.from_pylist(whole), "updates": pa.Table.from_pylist(updates)}
    return Findings(" ".join(sentences), headline, tables)


def _share(whole: Rows, found: Trend, keep_learned: bool) -> str:
    course = ", ".join(percent(row["share_window"]) for row in whole)
    zero = ", ".join(percent(row["zero_window"]) for row in whole)
    protected = (
        f"(M train grew from {whole[0]['mastered']} to {whole[-1]['mastered']} items by what was learned)"
        if keep_learned
        else "(only the original M train is protected)"
    )
    text = (
        f"Over {len(whole)} rounds {protected} the collaborative share is {course}, as the mean over the first "
        f"{whole[0]['window']} updates of each ({zero} are exactly zero). It changes by "
        f"{_points(found.slope)} points a round"
    )
    if found.low is None or found.high is None:
        return f"{text}; two rounds give no interval, so whether the share falls cannot be told."
    interval = f"[{_points(found.low)}, {_points(found.high)}] (95 %, Student's t, rounds are the units"
    ranks = f"Kendall's tau {found.tau:.2f}, p {found.p_value:.2g})"
    if found.high < 0:
        meaning = "the share falls from round to round"
    elif found.low > 0:
        meaning = "the share rises from round to round"
    else:
        meaning = "that it falls from round to round is not shown by these rounds"
    return f"{text} {interval}; {ranks}: {meaning}."


def _within(whole: Rows, headline: Mapping[str, Number]) -> str:
    first, last = _mean([row["share_first"] for row in whole]), _mean([row["share_last"] for row in whole])
    change = headline["change_within_round"]
    assert change is not None
    return (
        f"Within a round it goes from {percent(first)} at the first update to {percent(last)} at the last on average, "
        f"{_points(change)} points."
    )


def _cost(whole: Rows, lost: Sequence[Rate], target: float, headline: Mapping[str, Number]) -> str:
    needed = ["never" if row["updates_to_learn"] is None else str(row["updates_to_learn"]) for row in whole]
    text = (
        f"Updates until {percent(target)} of a part were learned: {', '.join(needed)}. A round made "
        f"{headline['updates_per_round']:.0f} updates in {headline['seconds_per_round']:.1f} s on average. "
    )
    if whole[-1]["survived_of"]:
        rate = Rate(whole[-1]["survived"], whole[-1]["survived_of"])
        text += (
            f"After the last round {rate.count} of {rate.of} ({percent(rate.share)}) of the earlier parts are right. "
        )
    further = headline["forgotten_per_further_round"]
    if further is None:
        return text + "There is no M test to measure forgetting on."
    low, high = lost[-1].interval() or (0.0, 1.0)
    course = ", ".join(str(rate.count) for rate in lost)
    return (
        f"{text}Of {lost[-1].of} items of M test {course} are forgotten after each "
        f"round, {percent(lost[-1].share)} [{percent(low)}, {percent(high)}] at the end: a further round costs "
        f"{_points(further)} points."
    )


def _points(share: float) -> str:
    """Return a change of a share in percentage points."""
    return f"{100 * share:+.2f}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
