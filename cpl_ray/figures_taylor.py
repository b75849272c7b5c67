"""Figure of the study `taylor`."""

from pathlib import Path

from cpl_ray.figures import BLUE, ORANGE
from cpl_ray.studies.findings import Findings
from cpl_ray.studies.taylor import BROKEN, RESOLUTION, by_rate
from cpl_ray.study_canvas import panels, save


def draw_taylor(findings: Findings, folder: Path) -> list[Path]:
    """Draw predicted and measured change and the error of first order by rate. Returns the path."""
    figure, (left, right) = panels("Change of the mastered loss (median)", "Error of first order (median)")
    rows = findings.tables["steps"].to_pylist()
    for direction, colour in (("applied", BLUE), ("unmasked", ORANGE)):
        rates = by_rate(rows, direction)
        places = [one["rate"] for one in rates]
        left.plot(places, [one["measured"] for one in rates], color=colour, marker="o", label=f"{direction}: measured")
        left.plot(places, [one["predicted"] for one in rates], color=colour, linestyle=":", label="predicted")
        judged = [one for one in rates if one["error"] is not None]
        right.plot([one["rate"] for one in judged], [one["error"] for one in judged], color=colour, marker="o")
    left.set_yscale("symlog", linthresh=10 * RESOLUTION)
    left.axhline(0, color="0.5", linewidth=0.8)
    left.set_ylabel("nats per token")
    left.legend(frameon=False, fontsize=8)
    right.axhline(BROKEN, color="0.5", linestyle="--", linewidth=0.8)
    right.set_yscale("log")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("learning rate")
    return [save(figure, folder / "taylor.png")]
