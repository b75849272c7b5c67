"""Axes and colours that the figures of all studies share."""

import io
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cpl_ray.atomic import atomic_write_bytes

_PANEL_INCHES = (6.0, 4.0)
_DPI = 130


def panels(*titles: str) -> tuple[Figure, list[Axes]]:
    """Return a figure with one panel for each title, side by side."""
    figure = Figure(figsize=(_PANEL_INCHES[0] * len(titles), _PANEL_INCHES[1]), dpi=_DPI, layout="constrained")
    axes = [figure.add_subplot(1, len(titles), index + 1) for index in range(len(titles))]
    for one, title in zip(axes, titles, strict=True):
        one.set_title(title, loc="left", fontsize=11)
        one.spines[["top", "right"]].set_visible(False)
        one.grid(axis="y", color="0.9")
        one.set_axisbelow(True)
    return figure, axes


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all."""
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    atomic_write_bytes(path, png.getvalue())
    return path
