"""Figure of the study `consumption`."""

from pathlib import Path

from matplotlib.ticker import MaxNLocator, PercentFormatter

from cpl_ray.figures import BLUE, GREEN, ORANGE
from cpl_ray.measures import Rate
from cpl_ray.studies.findings import Findings
from cpl_ray.study_canvas import panels, save


def draw_consumption(findings: Findings, folder: Path) -> list[Path]:
    """Draw the collaborative share over all rounds, updates made in each, and what M test lost. Returns the path."""
    figure, (left, middle, right) = panels("Collaborative share", "Updates of each round", "Forgotten of M test")
    rounds = findings.tables["rounds"].to_pylist()
    updates = findings.tables["updates"].to_pylist()
    done = 0
    for row in rounds:
        own = [one for one in updates if one["round"] == row["round"]]
        left.plot([done + one["step"] for one in own], [one["collaborative_share"] for one in own], color=BLUE)
        left.hlines(row["share_mean"], done, done + len(own), color=ORANGE)
        done += len(own)
        left.axvline(done, color="0.8", linewidth=0.8)
    left.set_xlabel("update, over all rounds (line: mean of the round)")
    numbers = [row["round"] for row in rounds]
    middle.bar(numbers, [row["updates"] for row in rounds], color=GREEN)
    rates = [Rate(row["forgotten"], row["forgotten_of"]) for row in rounds]
    shares = [rate.share or 0.0 for rate in rates]
    ends = [rate.interval() or (0.0, 0.0) for rate in rates]
    reach = [
        [max(0.0, share - low) for share, (low, _) in zip(shares, ends, strict=True)],
        [max(0.0, high - share) for share, (_, high) in zip(shares, ends, strict=True)],
    ]
    right.errorbar(numbers, shares, yerr=reach, color=ORANGE, marker="o", capsize=3)
    right.set_ylim(bottom=0)
    for panel in (middle, right):
        panel.set_xlabel("round")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    for panel in (left, right):
        panel.yaxis.set_major_formatter(PercentFormatter(xmax=1.0))
    return [save(figure, folder / "consumption.png")]
