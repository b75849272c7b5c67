"""The charts of a run's report, as inline SVG: what `figures.py` draws for files, and interval bars."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from cpl_ray.metrics_log import Record, curve, read_records
from cpl_ray.report_svg import HEIGHT, WIDTH, Axis, Plot, Point, round_up

NBSP = "\u00a0"
_FEW_POINTS = 40  # below: mark every point; above: the mean of a few neighbours over the band of their extremes
_BINS = 80
_MAX_COLUMNS = 48
_NAME_CHARS = 17


@dataclass(frozen=True)
class Key:
    """One entry of a legend."""

    name: str
    colour: str
    """Class of the style sheet: blue, orange, green, purple."""
    mark: str = "line"


@dataclass(frozen=True)
class Chart:
    """A chart with what is written around it."""

    title: str
    svg: Markup
    keys: tuple[Key, ...] = ()
    note: str = ""


def percent(share: float | None) -> str:
    """Return a share as `1.2 %`, a dash for None."""
    return "–" if share is None else f"{100 * share:.1f}{NBSP}%"


def run_charts(metrics_path: Path) -> list[Chart]:
    """Return the charts that the run has numbers for."""
    train, evals = read_records(metrics_path, "train"), read_records(metrics_path, "eval")
    lines = [
        ("learned (injection)", "blue", _points(evals, "learned", "learned_of")),
        ("forgotten (validation)", "orange", _points(evals, "forgotten_validation", "forgotten_validation_of")),
        ("forgotten (in-set)", "green", _points(evals, "forgotten_in_set", "forgotten_in_set_of")),
    ]
    losses = [
        ("injection: to be learned", "blue", _points(train, "loss_injection")),
        ("mastered: to be kept", "orange", _points(train, "loss_mastered")),
    ]
    shares = [
        ("collaborative: may move", "green", _points(train, "collaborative_share")),
        ("flip rate: changed class", "purple", _points(train, "flip_rate")),
    ]
    charts = [
        _lines("Learned against forgotten", lines, "share of the items", shares=True),
        _lines("Loss while training", losses, "nats per answer token", shares=False),
        _lines("What the rule lets move", shares, "share of the parameters", shares=True),
        layer_chart(read_records(metrics_path, "layers")),
    ]
    return [chart for chart in charts if chart is not None]


def _points(records: Sequence[Record], key: str, of: str | None = None) -> list[Point]:
    """Return steps and values of `curve` as points."""
    return [(float(step), value) for step, value in curve(records, key, of)]


def _lines(title: str, lines: Sequence[tuple[str, str, list[Point]]], label: str, *, shares: bool) -> Chart | None:
    drawn = [(name, colour, points) for name, colour, points in lines if points]
    if not drawn:
        return None
    last = max(points[-1][0] for _, _, points in drawn)
    top = 1.0 if shares else round_up(max(max(y for _, y in points) for _, _, points in drawn) or 1.0)
    ends = "; ".join(
        f"{name} ends at {percent(points[-1][1]) if shares else f'{points[-1][1]:.3f}'}" for name, _, points in drawn
    )
    plot = Plot(
        Axis(0.0, max(last, 1.0), "update"), Axis(0.0, top, label, percent=shares), f"{title} by update: {ends}."
    )
    for name, colour, points in drawn:
        if len(points) > _FEW_POINTS:
            low, mean, high = _binned(points)
            plot.band(low, high, colour)
            plot.line(mean, colour)
            continue
        plot.line(points, colour)
        for x, y in points:
            plot.dot((x, y), colour, title=f"update {x:.0f}, {name}: {percent(y) if shares else f'{y:.3f}'}")
    return Chart(title, plot.render(), tuple(Key(name, colour) for name, colour, _ in drawn))


def _binned(points: list[Point]) -> tuple[list[Point], list[Point], list[Point]]:
    """Return lowest, mean and highest value of neighbouring points, at most `_BINS` each."""
    size = math.ceil(len(points) / _BINS)
    bins = [points[start : start + size] for start in range(0, len(points), size)]
    middles = [sum(x for x, _ in some) / len(some) for some in bins]
    ways = (min, lambda values: sum(values) / len(values), max)
    low, mean, high = (
        [(x, float(way([y for _, y in some]))) for x, some in zip(middles, bins, strict=True)] for way in ways
    )
    return low, mean, high


def layer_chart(records: Sequence[Record]) -> Chart | None:
    """Return the heat map of the collaborative share, layer by update; None without records.

    Many updates share a column, which then shows their mean. The scale goes from the smallest to the largest cell.
    """
    names = list(dict.fromkeys(name for record in records for name in record.values))
    if not names:
        return None
    size = math.ceil(len(records) / _MAX_COLUMNS)
    groups = [records[start : start + size] for start in range(0, len(records), size)]
    cells: dict[tuple[int, int], float] = {}
    for row, name in enumerate(names):
        for column, group in enumerate(groups):
            values = [value for record in group if math.isfinite(value := record.values.get(name, math.nan))]
            if values:
                cells[row, column] = sum(values) / len(values)
    if not cells:
        return None
    low, high = min(cells.values()), max(cells.values())
    left, right, width = 118.0, 16.0, WIDTH
    bottom = max(HEIGHT - 42.0, 7.0 * len(names))
    height = bottom / len(names)
    cell_width = (width - left - right) / len(groups)
    shown = _short(names)
    every = math.ceil(12.0 / height)  # names stand at least a line apart
    pieces = []
    for row, name in enumerate(shown):
        if row % every == 0:
            pieces.append(
                f'<text class="end" x="{left - 8:g}" y="{(row + 0.5) * height + 4:.1f}">{escape(name)}</text>'
            )
    for (row, column), value in cells.items():
        strength = 0.08 + 0.92 * ((value - low) / (high - low) if high > low else 0.5)
        group = groups[column]
        steps = f"{group[0].step}" if len(group) == 1 else f"{group[0].step}–{group[-1].step}"
        pieces.append(
            f'<rect class="cell" x="{left + column * cell_width:.1f}" y="{row * height:.1f}" '
            f'width="{cell_width:.1f}" height="{height:.1f}" fill-opacity="{strength:.2f}">'
            f"<title>{escape(names[row])}, update {steps}: {percent(value)}</title></rect>"
        )
    for column in sorted({0, len(groups) // 2, len(groups) - 1}):
        x = left + (column + 0.5) * cell_width
        pieces.append(f'<text class="middle" x="{x:.1f}" y="{bottom + 17:.1f}">{groups[column][0].step}</text>')
    pieces.append(f'<text class="end" x="{width - right:g}" y="{bottom + 34:.1f}">update</text>')
    label = f"Collaborative share of {len(names)} layers by update, from {percent(low)} to {percent(high)}."
    svg = (
        f'<svg class="plot heat" viewBox="0 0 {width:g} {bottom + 42:g}" role="img" aria-label="{escape(label)}">'
        + "".join(pieces)
        + "</svg>"
    )
    note = f"The palest cell is {percent(low)}, the strongest {percent(high)}."
    return Chart("Collaborative share by layer", Markup(svg), note=note)  # escaped above


def _short(names: Sequence[str]) -> list[str]:
    """Return the names without the dotted head that all share, cut to what fits."""
    split = [name.split(".") for name in names]
    shared = 0
    while all(len(parts) > shared + 1 and parts[shared] == split[0][shared] for parts in split) and len(names) > 1:
        shared += 1
    rest = [".".join(parts[shared:]) for parts in split]
    return [name if len(name) <= _NAME_CHARS else "…" + name[1 - _NAME_CHARS :] for name in rest]


def interval_bar(rate: Mapping[str, Any], *, top: float, limit: float | None, colour: str) -> Markup:
    """Return a small bar from 0 to `top` with the share as a dot, its interval, and the limit as a tick."""
    left, right, y = 6.0, 234.0, 9.0
    axis = Axis(0.0, top, "", percent=True)

    def x(value: float) -> str:
        return f"{left + axis.place(value) * (right - left):.1f}"

    label = f"{percent(rate['share'])}, 95 % interval {percent(rate['low'])} to {percent(rate['high'])}"
    if limit is not None:
        label += f", limit {percent(limit)}"
    pieces = [
        f'<svg class="bar {colour}" viewBox="0 0 240 30" role="img" aria-label="{escape(label)}">',
        f'<line class="axis" x1="{left}" y1="{y}" x2="{right}" y2="{y}"/>',
        f'<text class="start" x="{left - 2}" y="27">0</text>',
        f'<text class="end" x="{right + 4}" y="27">{100 * top:g}{NBSP}%</text>',
    ]
    if limit is not None and limit <= top:
        pieces.append(f'<line class="limit" x1="{x(limit)}" y1="0" x2="{x(limit)}" y2="18"/>')
        # the name stands under the tick, but never on the numbers at the ends
        place = min(max(float(x(limit)), 48.0), 172.0)
        pieces.append(f'<text class="middle" x="{place:g}" y="27">limit {100 * limit:g}{NBSP}%</text>')
    pieces += [
        f'<line class="span" x1="{x(rate["low"])}" y1="{y}" x2="{x(rate["high"])}" y2="{y}"/>',
        f'<circle class="dot" cx="{x(rate["share"])}" cy="{y}" r="4.5"/></svg>',
    ]
    return Markup("".join(pieces))  # numbers and escaped text only
