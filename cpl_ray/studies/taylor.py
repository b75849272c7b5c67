"""What the table of the Taylor probe says: at which learning rate first order stops telling the truth."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import pyarrow as pa

from cpl_ray.studies.findings import Findings, Number, percent

RESOLUTION = 1e-6
"""Smallest change of the loss that is judged [nats per token]: below it lies the rounding of a float32 forward pass."""
BROKEN = 0.5
"""First order counts as broken where the measured change differs from the prediction by more than this part of it."""
FACTORS = (1 / 16, 1 / 4, 1.0, 4.0, 16.0, 64.0)
"""Of `optimizer.lr`: the rates that are tried where none are named."""
Rows = list[dict[str, Any]]


def with_error(steps: pa.Table) -> pa.Table:
    """Return the table with `error`, |measured - predicted| / |predicted|; null where the prediction is too small."""
    rows = steps.to_pylist()
    for row in rows:
        tiny = abs(row["predicted"]) < RESOLUTION
        row["error"] = None if tiny else abs(row["measured"] - row["predicted"]) / abs(row["predicted"])
    return pa.Table.from_pylist(rows, schema=steps.schema.append(pa.field("error", pa.float64())))


def by_rate(rows: Rows, direction: str) -> list[dict[str, Any]]:
    """Return by rate, ascending: moments, median error, and at how many moments the mastered loss rose.

    `judged` are the moments with an error, `held` those among all at which the loss did not rise by more than
    `RESOLUTION`.
    """
    own = [row for row in rows if row["direction"] == direction]
    found = []
    for rate in sorted({row["rate"] for row in own}):
        here = [row for row in own if row["rate"] == rate]
        errors = [row["error"] for row in here if row["error"] is not None]
        found.append(
            {
                "rate": rate,
                "moments": len(here),
                "judged": len(errors),
                "error": median(errors) if errors else None,
                "held": sum(row["measured"] <= RESOLUTION for row in here),
                "measured": median(row["measured"] for row in here),
                "predicted": median(row["predicted"] for row in here),
            }
        )
    return found


def breaks_at(rates: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the lowest rate from which on the median error is above `BROKEN` at every rate; None: it never breaks."""
    broken = None
    for one in reversed(rates):
        if one["error"] is None or one["error"] <= BROKEN:
            break
        broken = one["rate"]
    return broken


def rises_at(rates: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the lowest rate at which the mastered loss rose at some moment; None: at none."""
    return next((one["rate"] for one in rates if one["held"] < one["moments"]), None)


def analyse(tables: Mapping[str, pa.Table], lr: float) -> Findings:
    """Return headline and verdict for `steps`; `lr` is the rate that the run is trained with."""
    steps = with_error(tables["steps"])
    rows = steps.to_pylist()
    applied, unmasked = by_rate(rows, "applied"), by_rate(rows, "unmasked")
    nearest = min(applied, key=lambda one: abs(one["rate"] - lr) / lr)
    headline: dict[str, Number] = {
        "moments": nearest["moments"],
        "rate": nearest["rate"],
        "error_at_rate": nearest["error"],
        "held_at_rate": nearest["held"],
        "breaks_at": breaks_at(applied),
        "rises_at": rises_at(applied),
        "unmasked_breaks_at": breaks_at(unmasked),
        "unmasked_rises_at": rises_at(unmasked),
    }
    return Findings(" ".join(_sentences(applied, unmasked, nearest, lr)), headline, {"steps": steps})


def _sentences(
    applied: Sequence[Mapping[str, Any]], unmasked: Sequence[Mapping[str, Any]], nearest: Mapping[str, Any], lr: float
) -> list[str]:
    tried = f"{applied[0]['rate']:.3g} to {applied[-1]['rate']:.3g}"
    first = (
        f"The masked update of {nearest['moments']} moments of training was tried at rates from {tried}. At the rate "
        f"{nearest['rate']:.3g}{'' if nearest['rate'] == lr else f' (nearest to {lr:.3g})'} the mastered loss did not "
        f"rise in {nearest['held']} of {nearest['moments']} moments; "
    )
    if nearest["error"] is None:
        first += "the predicted changes are too small to be judged."
    else:
        first += (
            f"median predicted change {nearest['predicted']:.3g}, measured {nearest['measured']:.3g} nats per token, "
            f"an error of {percent(nearest['error'])}, so first order "
            f"{'holds' if nearest['error'] <= BROKEN else 'is already broken'} there."
        )
    broken, rising = breaks_at(applied), rises_at(applied)
    second = (
        f"First order breaks (median error above {BROKEN:.0%}) from the rate {broken:.3g} on"
        if broken is not None
        else f"First order does not break (median error above {BROKEN:.0%}) at the highest rate tried"
    )
    third = (
        f"and the measured change first turns positive at some moment, against the prediction, at {rising:.3g}."
        if rising is not None
        else "and the measured change turned positive at no rate tried."
    )
    other = rises_at(unmasked)
    fourth = (
        "Without the mask the same updates raise the mastered loss at no rate tried."
        if other is None
        else f"Without the mask the same updates raise the mastered loss from the rate {other:.3g} on, at some moment."
    )
    return [first, f"{second}, {third}", fourth]
