"""Figures of a comparison, drawn from its `compare.json` and the curves of its trials."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from cpl_ray.atomic import atomic_write_bytes
from cpl_ray.figures import BLUE, ORANGE
from cpl_ray.metrics_log import curve, read_records

_WIDTH_INCHES, _DPI = 8.0, 150
_INCHES_PER_METHOD = 0.32


def draw_comparison(comparison: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw what the comparison in `folder` has numbers for into its `figures`. Returns the paths."""
    figures, rows = folder / "figures", [row for row in comparison["methods"] if row["at_target"] is not None]
    if not rows:
        return []
    colours = dict(zip((row["method"] for row in rows), _palette(len(rows)), strict=True))
    return [
        _learned_against_forgotten(rows, colours, figures / "learned_forgotten.png"),
        _curves(comparison, rows, colours, folder, figures / "curves.png"),
        _inside(comparison, figures / "inside_budget.png"),
    ]


def _learned_against_forgotten(rows: Sequence[Mapping[str, Any]], colours: Mapping[str, Any], path: Path) -> Path:
    figure, axes = _axes("At equal learning: learned against held-out forgotten, 95 % intervals", 4.6)
    for row in rows:
        learned, forgotten = row["at_target"]["learned"], row["at_target"]["forgotten"]["held_out"]
        if not forgotten["of"]:
            continue
        axes.errorbar(
            learned["share"],
            forgotten["share"],
            yerr=[[forgotten["share"] - forgotten["low"]], [forgotten["high"] - forgotten["share"]]],
            xerr=[[learned["share"] - learned["low"]], [learned["high"] - learned["share"]]],
            color=colours[row["method"]],
            marker="o" if all(row["at_target"]["reached"]) else "x",
            linestyle="none",
            elinewidth=0.8,
            label=row["method"] + ("" if all(row["at_target"]["reached"]) else " (target missed)"),
        )
    _shares(axes, "learned share of the injection set", "forgotten share of M test")
    return _save(figure, axes, path)


def _curves(
    comparison: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], colours: Mapping[str, Any], root: Path, path: Path
) -> Path:
    """Draw the way of every seed of the chosen rates through training; what choices look at, so M validation."""
    figure, axes = _axes("During training: learned against forgotten of M validation, a line for each seed", 4.6)
    places = {trial["index"]: root / trial["run_dir"] / "metrics.jsonl" for trial in comparison["trials"]}
    for row in rows:
        for number, trial in enumerate(row["at_target"]["trials"]):
            records = read_records(places[trial], "eval")
            learned = dict(curve(records, "learned", "learned_of"))
            forgotten = dict(curve(records, "forgotten_validation", "forgotten_validation_of"))
            steps = [step for step in learned if step in forgotten]
            axes.plot(
                [learned[step] for step in steps],
                [forgotten[step] for step in steps],
                color=colours[row["method"]],
                linewidth=1.1,
                marker=".",
                markersize=3,
                label="_nolegend_" if number else row["method"],
            )
    _budget(axes, comparison, axes.axhline)
    _shares(axes, "learned share of the injection set", "forgotten share of M validation")
    return _save(figure, axes, path)


def _inside(comparison: Mapping[str, Any], path: Path) -> Path:
    limit = 100 * comparison["budget"]["max_forgetting"]
    rows = [row for row in comparison["methods"] if row["inside"] is not None]
    rows.sort(key=lambda row: row["inside"]["learned"]["share"] or 0.0)
    height = 1.2 + _INCHES_PER_METHOD * len(rows)
    figure, axes = _axes(f"Learned inside {limit:g} % forgetting of M validation, 95 % intervals", height)
    rates = [row["inside"]["learned"] for row in rows]
    shares = [rate["share"] for rate in rates]
    spans = [[r["share"] - r["low"] for r in rates], [r["high"] - r["share"] for r in rates]]
    colours = [BLUE if row["is_rule"] else ORANGE for row in rows]
    axes.barh([row["method"] for row in rows], shares, xerr=spans, color=colours, height=0.6, ecolor="0.3", capsize=2)
    axes.set_xlim(0.0, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
    axes.set_xlabel("learned share of the injection set")
    return _save(figure, axes, path, legend=False)


def _budget(axes: Axes, comparison: Mapping[str, Any], line: Any) -> None:
    limit = comparison["budget"]["max_forgetting"]
    line(limit, color="0.4", linestyle="--", linewidth=1, label=f"budget {100 * limit:g} %")


def _shares(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
    axes.set_ylim(bottom=min(-0.005, -0.03 * axes.get_ylim()[1]))
    axes.grid(axis="y", color="0.9")


def _palette(number: int) -> list[Any]:
    """Return as many colours as there are methods, each told apart from its neighbours."""
    colours = matplotlib.colormaps["tab20"]
    return [colours((2 * index) % 20 + (index // 10) % 2) for index in range(number)]


def _axes(title: str, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH_INCHES, height), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11)
    return figure, axes


def _save(figure: Figure, axes: Axes, path: Path, *, legend: bool = True) -> Path:
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:  # beside the axes: inside it would hide some method's points
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8)
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    atomic_write_bytes(path, png.getvalue())
    return path
