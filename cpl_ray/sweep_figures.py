"""Figures of a sweep, drawn from its `sweep.json`: learned against forgotten, forgetting against the mastered set."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from cpl_ray.atomic import atomic_write_bytes
from cpl_ray.figures import BLUE, GREEN, ORANGE

_SIZE_INCHES = (7.0, 4.4)
_DPI = 150


def draw_sweep(sweep: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw what the sweep has numbers for into `folder`. Returns the paths."""
    drawn = []
    if sweep["points"]:
        drawn.append(_pareto(sweep, folder / "pareto.png"))
    if len(sweep["by_size"]) > 1:
        drawn.append(_by_size(sweep, folder / "forgetting_by_mastered_size.png"))
    return drawn


def _pareto(sweep: Mapping[str, Any], path: Path) -> Path:
    figure, axes = _axes("Learned against forgotten, a point for each setting", "learned share of the injection set")
    points, chosen = sweep["points"], (sweep["best"] or {}).get("point_id")
    _crosses(axes, points, "validation", GREEN, "M validation: what choices look at")
    _crosses(axes, points, "held_out", BLUE, "M test: never looked at")
    front = sorted((one for one in points if one["pareto"]), key=lambda one: _share(one, "validation"))
    axes.plot(
        [one["learned"]["share"] for one in front],
        [_share(one, "validation") for one in front],
        color=GREEN,
        linewidth=1,
        label="Pareto front (validation)",
    )
    for one in points:
        if one["point_id"] == chosen:
            axes.plot(
                one["learned"]["share"],
                _share(one, "validation"),
                marker="o",
                markersize=13,
                markerfacecolor="none",
                markeredgecolor="black",
                linestyle="none",
                label=f"chosen: point {chosen}",
            )
    _budget(axes, sweep["budget"]["max_forgetting"])
    axes.set_ylabel("forgotten share of the part")
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
    return _save(figure, axes, path)


def _by_size(sweep: Mapping[str, Any], path: Path) -> Path:
    figure, axes = _axes("How much must be kept in mind: forgetting by mastered items trained on", "mastered items")
    sizes = sweep["by_size"]
    for shift, part, colour, label in ((-1, "validation", GREEN, "M validation"), (1, "held_out", BLUE, "M test")):
        known = [one for one in sizes if one["forgotten"][part]["of"]]
        rates = [one["forgotten"][part] for one in known]
        spans = [
            [rate["share"] - rate["low"] for rate in rates],
            [rate["high"] - rate["share"] for rate in rates],
        ]
        at = [one["mastered_size"] * (1 + 0.008 * shift) for one in known]
        axes.errorbar(at, [rate["share"] for rate in rates], spans, color=colour, marker="o", capsize=3, label=label)
    _budget(axes, sweep["budget"]["max_forgetting"])
    axes.set_xscale("log")
    axes.set_xticks([one["mastered_size"] for one in sizes], [str(one["mastered_size"]) for one in sizes])
    axes.minorticks_off()
    axes.set_ylabel("forgotten share, 95 % interval")
    return _save(figure, axes, path)


def _crosses(axes: Axes, points: Sequence[Mapping[str, Any]], part: str, colour: str, label: str) -> None:
    known = [one for one in points if one["forgotten"][part]["of"]]
    axes.plot(
        [one["learned"]["share"] for one in known],
        [_share(one, part) for one in known],
        color=colour,
        marker="o" if part == "validation" else "x",
        linestyle="none",
        label=label,
    )


def _share(one: Mapping[str, Any], part: str) -> float:
    return one["forgotten"][part]["share"] or 0.0


def _budget(axes: Axes, limit: float) -> None:
    axes.axhline(limit, color=ORANGE, linestyle="--", linewidth=1, label=f"budget {100 * limit:g} %")


def _axes(title: str, label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11, pad=42)
    axes.set_xlabel(label)
    return figure, axes


def _save(figure: Figure, axes: Axes, path: Path) -> Path:
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
    axes.set_ylim(bottom=min(-0.005, -0.03 * axes.get_ylim()[1]))
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(-0.015, 1.0), ncols=3, fontsize=8)
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    atomic_write_bytes(path, png.getvalue())
    return path
