"""Figure of the study `sequential`."""

from pathlib import Path

from matplotlib.ticker import MaxNLocator, PercentFormatter

from cpl_ray.figures import ORANGE
from cpl_ray.studies.findings import Findings
from cpl_ray.studies.rounds import INJECTION
from cpl_ray.studies.sequential import NAMES
from cpl_ray.study_canvas import panels, save

_MARKS = "os^Dv<>p"


def draw_sequential(findings: Findings, folder: Path) -> list[Path]:
    """Draw what of each part, and of M test, is right after each round, a panel for each method. Returns the path."""
    figure, axes = panels(*NAMES.values())
    rows = findings.tables["rounds"].to_pylist()
    parts = list(dict.fromkeys(row["part"] for row in rows if row["part"].startswith(INJECTION)))
    for panel, method in zip(axes, NAMES, strict=True):
        for index, part in enumerate(["mastered_test", *parts]):
            own = [row for row in rows if (row["method"], row["part"]) == (method, part)]
            panel.plot(
                [row["round"] for row in own],
                [row["right"] / row["of"] for row in own],
                marker=_MARKS[index % len(_MARKS)],
                label=f"part {index}" if index else "M test",
                color=str(0.65 * index / len(parts)) if index else ORANGE,
                linestyle="-" if index else "--",
            )
        panel.set_xlabel("rounds done")
        panel.set_ylabel("answered rightly")
        panel.set_ylim(0, 1.03)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
    axes[-1].legend(frameon=False, fontsize=8)
    return [save(figure, folder / "survival.png")]
