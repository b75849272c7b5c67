"""What a grid of mastered sets says: how small may M be, and is a fresh small batch better than a stale large one?"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from cpl_ray.config_types import PositiveInt
from cpl_ray.measures import Rate, TwoByTwo, two_by_two
from cpl_ray.studies.findings import Findings, Number, percent

SIGNIFICANT = 0.05
SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
"""Of M train: the sizes that are tried where none are named."""
Refresh = Literal["epoch"] | PositiveInt
Rows = list[dict[str, Any]]
Forgotten = Mapping[str, Mapping[str, bool]]
"""By name of the point and item of M test: whether it was forgotten."""


@dataclass(frozen=True)
class Point:
    """One way to use mastered items."""

    size: int
    """Items of M train."""
    batch: int
    """Items of a refresh; all with refresh `epoch`."""
    refresh: Refresh

    @property
    def name(self) -> str:
        """Name of the run."""
        return f"m{self.size}-b{self.batch}-r{self.refresh}"

    def changes(self) -> dict[str, Any]:
        """Return the keys of the run."""
        return {
            "train.rule": "cpl",
            "train.mastered_size": self.size,
            "train.mastered_batch_size": self.batch,
            "train.refresh": self.refresh,
        }

    def items_per_update(self, steps_per_epoch: int) -> float:
        """Return the mastered items that pass through the model for an update, on the average."""
        return self.batch / (steps_per_epoch if self.refresh == "epoch" else self.refresh)


def sizes_of(asked: Sequence[int], num_train: int) -> list[int]:
    """Return the sizes to try, ascending; where none are asked for, `SHARES` of M train."""
    return sorted(set(asked or [max(1, round(share * num_train)) for share in SHARES]))


def grid(sizes: Sequence[int], batches: Sequence[int], refreshes: Sequence[Refresh]) -> list[Point]:
    """Return the points of a grid, those that mean the same once."""
    found: dict[Point, None] = {}
    for size in sizes:
        for refresh in refreshes:
            for batch in batches:
                found[Point(size, size if refresh == "epoch" else min(batch, size), refresh)] = None
    return list(found)


def row_of(point: Point, result: Mapping[str, Any], steps_per_epoch: int) -> dict[str, Any]:
    """Return what the run of a point did, from its result.json."""
    row: dict[str, Any] = {
        "point": point.name,
        "mastered_size": point.size,
        "mastered_batch_size": point.batch,
        "refresh": str(point.refresh),
        "items_per_update": point.items_per_update(steps_per_epoch),
        "reached": result["stopped_at_learned"],
        "updates": result["steps"],
        "learned": result["learned"]["count"],
        "learned_of": result["learned"]["of"],
    }
    for part in ("held_out", "validation", "in_set"):
        rate = result["forgotten"][part]
        row |= {f"forgotten_{part}": rate["count"], f"forgotten_{part}_of": rate["of"]}
    held_out = result["forgotten"]["held_out"]
    return row | {"low": held_out["low"], "high": held_out["high"]}


def smallest_inside(rows: Rows, budget: float) -> dict[str, Any] | None:
    """Return the smallest |M| with which a way of use was inside the budget, as M validation shows it; None: none.

    Of its ways the one that forgot least of M validation (then: learned more, fewer items per update). M test is not
    looked at: the best of a grid on the part that is reported would look better than it is.
    """

    def order(row: Mapping[str, Any]) -> tuple[float, ...]:
        forgotten = row["forgotten_validation"]
        return (row["mastered_size"], forgotten, -row["learned"], row["items_per_update"])

    inside = [row for row in rows if row["forgotten_validation"] <= budget * row["forgotten_validation_of"]]
    return min(inside, key=order, default=None)


def equal_cost(rows: Rows, forgotten: Forgotten) -> Iterator[tuple[dict[str, Any], dict[str, Any], TwoByTwo]]:
    """Yield pairs with the same |M| and as many mastered items per update: the fresher one, the staler, M test."""
    for index, first in enumerate(rows):
        for second in rows[index + 1 :]:
            same = math.isclose(first["items_per_update"], second["items_per_update"], rel_tol=1e-6)
            if first["mastered_size"] != second["mastered_size"] or not same:
                continue
            # at equal cost the smaller batch is the more frequent one
            fresh, stale = sorted((first, second), key=lambda row: row["mastered_batch_size"])
            yield fresh, stale, two_by_two(forgotten[fresh["point"]], forgotten[stale["point"]])


def analyse(rows: Rows, forgotten: Forgotten, *, budget: float, target: float | None) -> Findings:
    """Return headline, verdict and tables.

    Args:
        rows: of `row_of`.
        forgotten: the same items of M test for every point.
        budget: `budget.max_forgetting`.
        target: `train.stop_at_learned`; None: all run for equally long.
    """
    judged = rows if target is None else [row for row in rows if row["reached"]]
    best = smallest_inside(judged, budget)
    pairs = list(equal_cost(judged, forgotten))
    sums = [
        sum(vars(table)[cell] for _, _, table in pairs) for cell in ("both", "only_first", "only_second", "neither")
    ]
    pooled = TwoByTwo(*sums)
    headline: dict[str, Number] = {
        "points": len(rows),
        "points_reached": sum(row["reached"] for row in rows),
        "smallest_size": None if best is None else best["mastered_size"],
        "smallest_forgotten": None if best is None else _held_out(best).share,
        "smallest_low": None if best is None else best["low"],
        "smallest_high": None if best is None else best["high"],
        "equal_cost_pairs": len(pairs),
        "equal_cost_fresh_forgotten": pooled.first.count if pairs else None,
        "equal_cost_stale_forgotten": pooled.second.count if pairs else None,
        "equal_cost_mcnemar": pooled.p_value if pairs else None,
    }
    sentences = [_smallest(rows, judged, best, budget), _size_effect(judged), _freshness(pairs, pooled)]
    compared = [{"fresh": fresh["point"], "stale": stale["point"], **t.to_dict()} for fresh, stale, t in pairs]
    tables = {"grid": pa.Table.from_pylist(rows), "equal_cost": pa.Table.from_pylist(compared)}
    return Findings(" ".join(one for one in sentences if one), headline, tables)


def _held_out(row: Mapping[str, Any]) -> Rate:
    return Rate(row["forgotten_held_out"], row["forgotten_held_out_of"])


def _way(row: Mapping[str, Any]) -> str:
    refresh = "a pass over all at each epoch" if row["refresh"] == "epoch" else f"refresh {row['refresh']}"
    return f"|M| {row['mastered_size']} (batch {row['mastered_batch_size']}, {refresh})"


def _smallest(rows: Rows, judged: Rows, best: Mapping[str, Any] | None, budget: float) -> str:
    missed = len(rows) - len(judged)
    left_out = f" {missed} of {len(rows)} runs missed the learned target and are not judged." if missed else ""
    if not judged:
        return f"No run reached the learned target, so that forgetting says nothing.{left_out}"
    if best is None:
        least = min(judged, key=lambda row: row["forgotten_validation"])
        return (
            f"No mastered set stays inside {percent(budget)} forgetting of M validation; least is "
            f"{least['forgotten_validation']} of {least['forgotten_validation_of']} with {_way(least)}.{left_out}"
        )
    larger = [row for row in judged if row["mastered_size"] > best["mastered_size"]]
    outside = sum(row["forgotten_validation"] > budget * row["forgotten_validation_of"] for row in larger)
    others = f"; {outside} of {len(larger)} runs with larger sets are outside" if outside else ""
    return (
        f"The smallest mastered set inside {percent(budget)} forgetting, by M validation, is {_way(best)}: "
        f"{best['forgotten_validation']} of {best['forgotten_validation_of']} there{others}. Of M test it forgot "
        f"{best['forgotten_held_out']} of {best['forgotten_held_out_of']} "
        f"[{percent(best['low'])}, {percent(best['high'])}], {_against(best, budget)}, having learned "
        f"{best['learned']} of {best['learned_of']}.{left_out}"
    )


def _against(best: Mapping[str, Any], budget: float) -> str:
    """Say how the forgetting of M test stands to the budget."""
    held_out = _held_out(best)
    if not held_out.of:
        return "as M test is empty"
    if best["high"] <= budget:
        return "inside the budget with its whole interval"
    inside = held_out.count <= budget * held_out.of
    return "inside the budget, though its interval is not" if inside else "outside of the budget"


def _size_effect(judged: Rows) -> str:
    """Say what the smallest and the largest size forgot, all their ways together."""
    sizes = sorted({row["mastered_size"] for row in judged})
    if len(sizes) < 2:
        return ""
    shares = []
    for size in (sizes[0], sizes[-1]):
        own = [row for row in judged if row["mastered_size"] == size]
        rate = Rate(sum(_held_out(row).count for row in own), sum(_held_out(row).of for row in own))
        shares.append(f"|M| {size} {percent(rate.share)}")
    return f"Mean forgetting of M test over batches and refreshes: {' and '.join(shares)}."


def _freshness(pairs: Sequence[tuple[Any, Any, TwoByTwo]], pooled: TwoByTwo) -> str:
    if not pairs:
        return "No two runs with the same |M| cost the same, so that freshness at equal cost was not measured."
    ours, theirs = pooled.first.count, pooled.second.count
    if pooled.p_value >= SIGNIFICANT:
        meaning = "no effect of freshness is shown"
    else:
        meaning = "fresh small batches forget less" if ours < theirs else "stale large batches forget less"
    return (
        f"At equal cost (the same |M| and mastered items per update; {len(pairs)} pairs, an item counts once for each) "
        f"small fresh batches forgot {ours} and large stale ones {theirs} of {pooled.of} in M test, exact McNemar p "
        f"{pooled.p_value:.2g}: {meaning}."
    )
