"""Figure of the study `optimizers`."""

from pathlib import Path

from matplotlib.ticker import PercentFormatter

from cpl_ray.figures import BLUE, GREEN, ORANGE
from cpl_ray.measures import Rate
from cpl_ray.studies.findings import Findings
from cpl_ray.study_canvas import panels, save

_COLOURS = {"update": BLUE, "gradient": GREEN, "none": ORANGE}
_LABELS = {"update": "mask on update", "gradient": "mask on gradient", "none": "plain"}
_WIDTH = 0.26


def draw_optimizers(findings: Findings, folder: Path) -> list[Path]:
    """Draw what each optimizer forgot under each mask, and the share of moves against g_M. Returns the path."""
    figure, (left, right) = panels("Forgotten of M test, 95 % intervals", "Moves against g_M")
    rows = findings.tables["optimizers"].to_pylist()
    names = list(dict.fromkeys(row["optimizer"] for row in rows))
    for index, (mask, colour) in enumerate(_COLOURS.items()):
        own = [row for row in rows if row["mask"] == mask]
        for row in own:
            place = names.index(row["optimizer"]) + (index - 1) * _WIDTH
            rate = Rate(row["forgotten_held_out"], row["forgotten_held_out_of"])
            low, high = rate.interval() or (0.0, 0.0)
            share = rate.share or 0.0
            left.bar(place, share, width=_WIDTH, color=colour, label=_LABELS[mask] if row is own[0] else None)
            left.errorbar(place, share, yerr=[[share - low], [high - share]], color="0.3", linewidth=0.8)
            if mask != "none":
                against = row["moved_against"] / row["moves"] if row["moves"] else 0.0
                right.bar(place, against, width=_WIDTH, color=colour)
    left.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
        axes.set_ylim(bottom=0)
    return [save(figure, folder / "optimizers.png")]
