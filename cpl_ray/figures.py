"""Figures of one run, drawn from its metrics.jsonl: losses, learned against forgotten, what the rule did and where."""

import io
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from cpl_ray.atomic import atomic_write_bytes
from cpl_ray.metrics_log import Record, curve, read_records

# Okabe and Ito's colours, distinct also to colour-blind readers
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
_SIZE_INCHES = (7.0, 4.0)
_DPI = 150
_FEW_POINTS = 40  # below: mark every point; above: a running mean over the pale raw values
_WINDOWS = 25
_ROW_INCHES = 0.19  # of the map, a layer
_NARROWEST = 0.02  # range of its colours: less would make noise look like structure

Points = tuple[list[int], list[float]]


def learning_curve(metrics_path: Path, out_png: Path) -> Path | None:
    """Draw the injection and the mastered loss (nats per answer token) by update.

    Returns:
        `out_png`, or None where there is nothing to draw; so for the other figures.
    """
    train = read_records(metrics_path, "train")
    lines = [
        ("injection: to be learned", BLUE, _points(train, "loss_injection")),
        ("mastered: to be kept", ORANGE, _points(train, "loss_mastered")),
    ]
    return _draw(lines, out_png, title="Loss while training", label="loss [nats per answer token]", percent=False)


def learned_vs_forgotten(metrics_path: Path, out_png: Path) -> Path | None:
    """Draw the learned share of the injection set and the forgotten shares of M validation and M train by update."""
    evals = read_records(metrics_path, "eval")
    lines = [
        ("learned (injection)", BLUE, _points(evals, "learned", "learned_of")),
        ("forgotten (validation)", ORANGE, _points(evals, "forgotten_validation", "forgotten_validation_of")),
        ("forgotten (in-set)", GREEN, _points(evals, "forgotten_in_set", "forgotten_in_set_of")),
    ]
    return _draw(lines, out_png, title="Learned against forgotten", label="share of the items", percent=True)


def collaborative_share(metrics_path: Path, out_png: Path) -> Path | None:
    """Draw by update the share of parameters that may move, and of those whose class changed since the last mask."""
    train = read_records(metrics_path, "train")
    lines = [
        ("collaborative: may move", GREEN, _points(train, "collaborative_share")),
        ("flip rate: changed class", PURPLE, _points(train, "flip_rate")),
    ]
    return _draw(lines, out_png, title="What the rule lets move", label="share of the parameters", percent=True)


def layer_shares(metrics_path: Path, out_png: Path) -> Path | None:
    """Draw a map of the share of each layer's parameters that may move, layer by update, in the model's order."""
    records = read_records(metrics_path, "layers")
    layers = list(dict.fromkeys(name for record in records for name in record.values))
    shares = [[record.values.get(layer, math.nan) for record in records] for layer in layers]
    finite = [share for row in shares for share in row if math.isfinite(share)]
    if not finite:
        return None
    figure = Figure(
        figsize=(_SIZE_INCHES[0], max(3.0, 1.4 + _ROW_INCHES * len(layers))), dpi=_DPI, layout="constrained"
    )
    axes = figure.add_subplot()
    low, high = min(finite), max(finite)
    if high - low < _NARROWEST:
        low, high = max(0.0, (low + high - _NARROWEST) / 2), min(1.0, (low + high + _NARROWEST) / 2)
    edges = _edges([record.step for record in records])
    mesh = axes.pcolormesh(edges, range(len(layers) + 1), shares, cmap="viridis", vmin=low, vmax=high, rasterized=True)
    axes.set_yticks([row + 0.5 for row in range(len(layers))], layers, fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_facecolor("0.85")  # where a layer has no number
    axes.set_title("Where the rule lets parameters move", loc="left", fontsize=12)
    axes.set_xlabel("update")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[:].set_visible(False)
    decimals = 0 if high - low >= 0.1 else 1
    bar = figure.colorbar(mesh, ax=axes, format=PercentFormatter(xmax=1.0, decimals=decimals), pad=0.02)
    bar.set_label("collaborative share of the layer")
    bar.outline.set_visible(False)  # type: ignore[operator]
    return _save(FigureCanvasAgg(figure), out_png)


def draw_figures(metrics_path: Path, folder: Path) -> list[Path]:
    """Draw every figure that the run has numbers for into `folder`. Returns their paths."""
    drawn = [
        learning_curve(metrics_path, folder / "learning_curve.png"),
        learned_vs_forgotten(metrics_path, folder / "learned_vs_forgotten.png"),
        collaborative_share(metrics_path, folder / "collaborative_share.png"),
        layer_shares(metrics_path, folder / "layer_shares.png"),
    ]
    return [path for path in drawn if path is not None]


def _points(records: Sequence[Record], key: str, of: str | None = None) -> Points:
    """Return steps and values of `curve`, each in a list."""
    known = curve(records, key, of)
    return [step for step, _ in known], [value for _, value in known]


def _draw(
    lines: Sequence[tuple[str, str, Points]], out_png: Path, *, title: str, label: str, percent: bool
) -> Path | None:
    if not any(steps for _, _, (steps, _) in lines):
        return None
    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, colour, (steps, values) in lines:
        if steps:
            _line(axes, name, colour, steps, values)
    axes.set_title(title, loc="left", fontsize=12, pad=26)
    axes.set_xlabel("update")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(left=0)
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
        axes.set_ylim(-0.02, 1.02)
    else:
        axes.set_ylim(bottom=0.0)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    # above the axes: at any place inside it would hide a part of some run's curves
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(-0.015, 1.0), ncols=len(lines), fontsize=9)
    return _save(canvas, out_png)


def _save(canvas: FigureCanvasAgg, out_png: Path) -> Path:
    png = io.BytesIO()
    canvas.print_png(png)
    atomic_write_bytes(out_png, png.getvalue())
    return out_png


def _edges(steps: list[int]) -> list[float]:
    """Return where the column of each update begins, and where the last one ends: half-way to the neighbours."""
    middles = [(a + b) / 2 for a, b in itertools.pairwise(steps)]
    half = (steps[1] - steps[0]) / 2 if len(steps) > 1 else 0.5
    return [steps[0] - half, *middles, steps[-1] + (steps[-1] - middles[-1] if middles else half)]


def _line(axes: Axes, name: str, colour: str, steps: list[int], values: list[float]) -> None:
    if len(steps) <= _FEW_POINTS:
        axes.plot(steps, values, color=colour, marker="o", markersize=3.5, linewidth=1.6, label=name, clip_on=False)
        return
    axes.plot(steps, values, color=colour, linewidth=0.6, alpha=0.3)
    axes.plot(steps, _running_mean(values, len(values) // _WINDOWS), color=colour, linewidth=1.8, label=name)


def _running_mean(values: list[float], width: int) -> list[float]:
    """Return the mean over up to `width` values on each side, equally many on both so that a slope is kept."""
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    means = []
    for index in range(len(values)):
        reach = min(width, index, len(values) - 1 - index)
        means.append((sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1))
    return means
