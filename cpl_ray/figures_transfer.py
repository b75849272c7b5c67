"""Figure of the study `transfer`."""

from pathlib import Path

from matplotlib.ticker import PercentFormatter

from cpl_ray.figures import BLUE, GREEN, ORANGE
from cpl_ray.studies.findings import Findings
from cpl_ray.study_canvas import panels, save


def draw_transfer(findings: Findings, folder: Path) -> list[Path]:
    """Draw agreement beyond chance by comparison, and what each kind of mask learned and forgot. Returns the path."""
    figure, (left, right) = panels("Agreement of the classes beyond chance", "Training on a mask")
    whole = [row for row in findings.tables["overlap"].to_pylist() if row["type"] == "all"]
    left.bar(range(len(whole)), [row["kappa"] for row in whole], color=BLUE)
    left.set_xticks(range(len(whole)), [row["comparison"] for row in whole], rotation=30, ha="right", fontsize=8)
    left.axhline(0, color="0.5", linewidth=0.8)
    left.set_ylabel("Cohen's kappa")
    training = findings.tables["training"].to_pylist()
    for offset, key, colour in ((-0.2, "learned", GREEN), (0.2, "forgotten", ORANGE)):
        shares = [row[key] / row[f"{key}_of"] if row[f"{key}_of"] else 0.0 for row in training]
        right.bar([place + offset for place in range(len(training))], shares, width=0.4, color=colour, label=key)
    right.set_xticks(range(len(training)), [row["mask"] for row in training])
    right.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
    right.legend(frameon=False)
    return [save(figure, folder / "transfer.png")]
