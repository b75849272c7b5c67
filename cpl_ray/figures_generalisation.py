"""Figure of the study `generalisation`."""

from pathlib import Path

from matplotlib.ticker import PercentFormatter

from cpl_ray.figures import BLUE, ORANGE
from cpl_ray.measures import Rate
from cpl_ray.studies.findings import Findings
from cpl_ray.studies.generalisation import METHODS
from cpl_ray.study_canvas import panels, save

_COLOURS = {"cpl": BLUE, "plain": ORANGE}


def draw_generalisation(findings: Findings, folder: Path) -> list[Path]:
    """Draw what each method learned and forgot by prompt. Returns the path."""
    figure, axes = panels("Learned, 95 % intervals", "Forgotten of M test, 95 % intervals")
    rows = findings.tables["generalisation"].to_pylist()
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))
    for panel, name in zip(axes, ("learned", "forgotten_held_out"), strict=True):
        for index, (method, colour) in enumerate(_COLOURS.items()):
            own = [row for row in rows if row["method"] == method]
            rates = [Rate(row[name], row[f"{name}_of"]) for row in own]
            shares = [rate.share or 0.0 for rate in rates]
            ends = [rate.interval() or (0.0, 0.0) for rate in rates]
            reach = [
                [share - low for share, (low, _) in zip(shares, ends, strict=True)],
                [high - share for share, (_, high) in zip(shares, ends, strict=True)],
            ]
            places = [prompts.index(row["prompt"]) + (index - 0.5) * 0.4 for row in own]
            panel.bar(places, shares, width=0.4, color=colour, label=METHODS[method])
            panel.errorbar(places, shares, yerr=reach, color="0.3", linestyle="none", linewidth=0.8)
        panel.set_xticks(range(len(prompts)), prompts, rotation=30, ha="right", fontsize=8)
        panel.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
        panel.set_ylim(bottom=0)
    axes[0].legend(frameon=False, fontsize=8)
    return [save(figure, folder / "generalisation.png")]
