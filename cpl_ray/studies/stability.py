"""What the tables of the stability probe say: how often classes change, where, and whether an alarm is due."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from cpl_ray.studies.findings import Findings, Number, percent

Rows = list[dict[str, Any]]


def flip_rates(rows: Rows, when: str) -> dict[int, float]:
    """Return by `step` or `epoch` the share of all parameters whose class changed; where nothing came before: none."""
    counts: dict[int, list[int]] = {}
    for row in rows:
        if row["flips"] is not None:
            own = counts.setdefault(row[when], [0, 0])
            own[0] += row["flips"]
            own[1] += row["numel"]
    return {place: flips / numel for place, (flips, numel) in counts.items()}


def by_layer(rows: Rows) -> dict[str, float]:
    """Return by layer the mean flip rate per update."""
    counts: dict[str, list[int]] = {}
    for row in rows:
        if row["flips"] is not None:
            own = counts.setdefault(row["layer"], [0, 0])
            own[0] += row["flips"]
            own[1] += row["numel"]
    return {layer: flips / numel for layer, (flips, numel) in counts.items()}


def alarms(windows: Rows, *, flapping: float, stagnation: float) -> Rows:
    """Return the alarms: `alarm`, `layer`, `first`, `last`, `value`, `threshold`.

    Args:
        windows: by window and layer.
        flapping: mean flip rate per update inside a window above which a layer flaps.
        stagnation: share that never flips inside a window above which a layer stagnates.
    """
    found: Rows = []
    for row in windows:
        changes = row["last"] - row["first"]
        rate = row["flips"] / (row["numel"] * changes) if changes else 0.0
        kept = row["never_flipped"] / row["numel"]
        about = {"layer": row["layer"], "first": row["first"], "last": row["last"]}
        if rate > flapping:
            found.append({"alarm": "flapping", **about, "value": rate, "threshold": flapping})
        if changes and kept > stagnation:
            found.append({"alarm": "stagnation", **about, "value": kept, "threshold": stagnation})
    return found


def analyse(tables: Mapping[str, pa.Table], *, flapping: float, stagnation: float) -> Findings:
    """Return headline, verdict and the table `alarms` for `steps`, `windows` and, with two epochs or more, `epochs`."""
    steps = tables["steps"].to_pylist()
    windows = tables["windows"].to_pylist() if "windows" in tables else []
    per_step = list(flip_rates(steps, "step").values())
    per_epoch = list(flip_rates(tables["epochs"].to_pylist(), "epoch").values()) if "epochs" in tables else []
    layers = by_layer(steps)
    raised = alarms(windows, flapping=flapping, stagnation=stagnation)
    whole = sum(row["numel"] for row in windows)
    never = sum(row["never_flipped"] for row in windows) / whole if whole else None
    conflict = sum(row["always_conflicting"] for row in windows) / whole if whole else None
    headline: dict[str, Number] = {
        "updates": len({row["step"] for row in steps}),
        "flip_rate_per_step": _mean(per_step),
        "flip_rate_per_epoch": _mean(per_epoch),
        "never_flipped": never,
        "always_conflicting": conflict,
        "always_collaborative": None if never is None or conflict is None else never - conflict,
        "flapping_alarms": sum(one["alarm"] == "flapping" for one in raised),
        "stagnation_alarms": sum(one["alarm"] == "stagnation" for one in raised),
    }
    text = " ".join(_sentences(headline, per_step, layers, windows, raised, flapping, stagnation))
    return Findings(text, headline, {**tables, "alarms": pa.Table.from_pylist(raised, schema=_ALARMS)})


_ALARMS = pa.schema(
    [
        ("alarm", pa.string()),
        ("layer", pa.string()),
        ("first", pa.int64()),
        ("last", pa.int64()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
    ]
)


def _sentences(
    headline: Mapping[str, Number],
    per_step: list[float],
    layers: Mapping[str, float],
    windows: Rows,
    raised: Rows,
    flapping: float,
    stagnation: float,
) -> Iterable[str]:
    if not per_step:
        yield "Training made one update only, so no class could change."
        return
    calmest, liveliest = min(layers, key=lambda one: layers[one]), max(layers, key=lambda one: layers[one])
    yield (
        f"Over {headline['updates']} updates {percent(_mean(per_step))} of the parameters change their class from one "
        f"update to the next (first {percent(per_step[0])}, last {percent(per_step[-1])}); by layer between "
        f"{percent(layers[calmest])} ({calmest}) and {percent(layers[liveliest])} ({liveliest})."
    )
    of_epoch = headline["flip_rate_per_epoch"]
    if of_epoch is not None:
        yield f"From the end of one epoch to that of the next it is {percent(of_epoch)}."
    if not windows:
        yield "Training was shorter than one window, so nothing is said about classes that last, and no alarm is due."
        return
    span = windows[0]["last"] - windows[0]["first"] + 1
    yield (
        f"Through a window of {span} updates {percent(headline['never_flipped'])} never change their class: "
        f"{percent(headline['always_collaborative'])} are always collaborative, "
        f"{percent(headline['always_conflicting'])} always conflicting; the class of the others is no property of the "
        f"parameter but of the moment."
    )
    limits = (
        f"thresholds: flapping above {percent(flapping)} per update, stagnation above {percent(stagnation)} unchanged"
    )
    if not raised:
        yield f"No layer raised an alarm ({limits})."
        return
    named = ", ".join(dict.fromkeys(f"{one['layer']} ({one['alarm']})" for one in raised))
    yield f"{len(raised)} alarms in {len(windows)} windows of layers ({limits}): {named}."


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
