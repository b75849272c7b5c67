"""Figure of the study `stability`."""

from pathlib import Path

from matplotlib.ticker import MaxNLocator, PercentFormatter

from cpl_ray.figures import BLUE, GREEN, ORANGE
from cpl_ray.studies.findings import Findings
from cpl_ray.studies.stability import by_layer, flip_rates
from cpl_ray.study_canvas import panels, save


def draw_stability(findings: Findings, folder: Path) -> list[Path]:
    """Draw the flip rate by update and by layer. Returns the path."""
    steps = findings.tables["steps"].to_pylist()
    figure, (left, right) = panels("Flip rate by update", "Mean flip rate by layer")
    rates = flip_rates(steps, "step")
    left.plot(list(rates), list(rates.values()), color=BLUE, label="against the update before")
    if "epochs" in findings.tables:
        ends = {row["epoch"]: 0 for row in findings.tables["epochs"].to_pylist()}
        per_epoch = max(rates, default=1) / max(ends, default=1)
        of_epochs = flip_rates(findings.tables["epochs"].to_pylist(), "epoch")
        places = [epoch * per_epoch for epoch in of_epochs]
        left.plot(places, list(of_epochs.values()), color=GREEN, marker=".", label="against the epoch before")
    left.set_xlabel("update")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.legend(frameon=False, fontsize=8)
    layers = by_layer(steps)
    right.bar(range(len(layers)), list(layers.values()), color=ORANGE)
    right.set_xticks(range(len(layers)), list(layers), rotation=90, fontsize=8)
    for axes in (left, right):
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
    return [save(figure, folder / "stability.png")]
