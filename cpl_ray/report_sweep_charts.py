"""The charts of a sweep's report: what each point learned and forgot, and forgetting by size of the mastered set."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cpl_ray.report_charts import Chart, Key, percent
from cpl_ray.report_source import at, rate_at
from cpl_ray.report_svg import Axis, Plot, round_up

_LEAST_TOP = 0.1
_MANY = 1.1  # sizes further apart than a factor of ten stand on a logarithmic axis


def pareto_charts(sweep: Mapping[str, Any], names: Mapping[int, str]) -> list[Chart]:
    """Return learned against forgotten of every finished point, on M validation and on M test, on equal axes.

    Args:
        sweep: content of sweep.json.
        names: what a point is called, by its id.
    """
    sides = (("validation", "On M validation: what the choice looked at"), ("held_out", "On M test: held-out"))
    points = [point for point in sweep.get("points") or () if rate_at(point, "learned") is not None]
    rates = [rate for point in points for side, _ in sides if (rate := rate_at(point, "forgotten", side)) is not None]
    if not rates:
        return []
    limit = at(sweep, "budget", "max_forgetting")
    top = min(1.0, round_up(max([_LEAST_TOP, 1.1 * (limit or 0.0), *(1.05 * rate["share"] for rate in rates)])))
    lowest = min(point["learned"]["share"] for point in points)
    bottom = min(0.9, math.floor(10 * max(0.0, lowest - 0.02)) / 10)
    charts = [_pareto(sweep, points, names, side, title, (bottom, top)) for side, title in sides]
    return [chart for chart in charts if chart is not None]


def _pareto(
    sweep: Mapping[str, Any],
    points: Sequence[Mapping[str, Any]],
    names: Mapping[int, str],
    side: str,
    title: str,
    ends: tuple[float, float],
) -> Chart | None:
    """Return one panel; `ends` are the lower end of the learned and the right end of the forgotten shares."""
    drawn = [(point, rate) for point in points if (rate := rate_at(point, "forgotten", side)) is not None]
    if not drawn:
        return None
    front, best = set(sweep.get("pareto") or ()), at(sweep, "best", "point_id")
    label = f"Learned against forgotten of {len(drawn)} points, {title}; {len(front)} on the Pareto front."
    right, upper = Axis(0.0, ends[1], "forgotten", percent=True), Axis(ends[0], 1.0, "learned", percent=True)
    plot = Plot(right, upper, label)
    if (limit := at(sweep, "budget", "max_forgetting")) is not None:
        plot.limit(limit, f"budget {100 * limit:g} %", vertical=True)
    if (least := at(sweep, "budget", "min_learned")) is not None and least > ends[0]:
        plot.limit(least, f"at least {100 * least:g} % learned", vertical=False)
    stairs = sorted((rate["share"], point["learned"]["share"]) for point, rate in drawn if point["point_id"] in front)
    if side == "validation" and len(stairs) > 1:
        steps = [stairs[0]]
        for x, y in stairs[1:]:
            steps += [(x, steps[-1][1]), (x, y)]
        plot.line(steps, "blue", dashed=True)
    for point, rate in sorted(drawn, key=lambda pair: pair[0]["point_id"] in front):
        learned, on_front = point["learned"], point["point_id"] in front
        place = (rate["share"], learned["share"])
        colour = "blue" if on_front else "grey"
        if on_front:
            plot.whisker((rate["low"], place[1]), (min(rate["high"], ends[1]), place[1]), colour)
            plot.whisker((place[0], max(learned["low"], ends[0])), (place[0], learned["high"]), colour)
        words = f"{names[point['point_id']]}: learned {_said(learned)}, forgotten {_said(rate)}"
        plot.dot(place, colour, radius=4.5, hollow=not on_front, title=words)
        if point["point_id"] == best:
            plot.ring(place, "orange")
    keys = [Key("Pareto front, with 95 % intervals", "blue", "dot"), Key("other points", "grey", "hollow")]
    if best is not None:
        keys.append(Key("chosen", "orange", "hollow"))
    return Chart(title, plot.render(), tuple(keys))


def size_chart(sweep: Mapping[str, Any]) -> Chart | None:
    """Return forgetting by the number of mastered items trained with; None where no sizes were searched."""
    rows = [row for row in sweep.get("by_size") or () if row.get("mastered_size")]
    lines = (("validation", "M validation", "orange", -1.0), ("held_out", "M test (held-out)", "purple", 1.0))
    rates = [rate for row in rows for side, *_ in lines if (rate := rate_at(row, "forgotten", side)) is not None]
    if not rates:
        return None
    sizes = sorted({float(row["mastered_size"]) for row in rows})
    limit, smallest = at(sweep, "budget", "max_forgetting"), at(sweep, "smallest_mastered_set", "mastered_size")
    top = min(1.0, round_up(max([_LEAST_TOP, 1.1 * (limit or 0.0), *(rate["high"] for rate in rates)])))
    low, high = sizes[0] * 0.8, sizes[-1] * 1.15
    x = Axis(low, high, "mastered items trained with", log=high / low > _MANY * 10, at=_apart(sizes))
    plot = Plot(x, Axis(0.0, top, "", percent=True), f"Forgotten share for {len(sizes)} sizes of the mastered set.")
    if limit is not None:
        plot.limit(limit, f"budget {100 * limit:g} %", vertical=False)
    for side, name, colour, shift in lines:
        found = [(float(row["mastered_size"]), rate) for row in rows if (rate := rate_at(row, "forgotten", side))]
        found.sort(key=lambda pair: pair[0])
        moved = [(_shifted(x, size, shift), size, rate) for size, rate in found]
        plot.line([(place, rate["share"]) for place, _, rate in moved], colour)
        for place, size, rate in moved:
            plot.whisker((place, rate["low"]), (place, rate["high"]), colour)
            plot.dot((place, rate["share"]), colour, radius=4.0, title=f"{size:.0f} items, {name}: {_said(rate)}")
            if size == smallest:
                plot.ring((place, rate["share"]), colour)
    note = "Whiskers are 95 % intervals." + (" Rings: the recommended size." if smallest is not None else "")
    return Chart(
        "Forgetting by size of the mastered set", plot.render(), tuple(Key(n, c) for _, n, c, _ in lines), note
    )


def _shifted(axis: Axis, value: float, direction: float) -> float:
    """Return `value` moved a little, so that the whiskers of two lines stand beside each other."""
    if axis.log:
        return value * (axis.high / axis.low) ** (0.006 * direction)
    return value + 0.006 * direction * (axis.high - axis.low)


def _apart(sizes: Sequence[float]) -> tuple[float, ...]:
    """Return at most eight of the sizes for ticks, the last one among them."""
    every = math.ceil(len(sizes) / 8)
    return tuple(reversed(list(reversed(sizes))[::every]))


def _said(rate: Mapping[str, Any]) -> str:
    return f"{percent(rate['share'])} ({rate['count']} of {rate['of']})"
