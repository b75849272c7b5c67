"""Figure of the study `mastered-size`."""

from pathlib import Path

import matplotlib
from matplotlib.ticker import PercentFormatter

from cpl_ray.measures import Rate
from cpl_ray.studies.findings import Findings
from cpl_ray.study_canvas import panels, save


def draw_mastered_size(findings: Findings, folder: Path) -> list[Path]:
    """Draw what was forgotten and learned over |M|, a line for each batch and refresh. Returns the path.

    Batches that were cut to |M| belong to the line of |M| itself.
    """
    figure, (left, right) = panels("Forgotten of M test, 95 % intervals", "Learned")
    rows = findings.tables["grid"].to_pylist()
    lines: dict[tuple[str, str], list[dict[str, float]]] = {}
    for row in rows:
        whole = row["mastered_batch_size"] == row["mastered_size"]
        batch = "all" if whole else str(row["mastered_batch_size"])
        lines.setdefault((batch, row["refresh"]), []).append(row)
    colours = matplotlib.colormaps["viridis"]
    for index, ((batch, refresh), own) in enumerate(lines.items()):
        own.sort(key=lambda row: row["mastered_size"])
        sizes = [row["mastered_size"] for row in own]
        colour = colours(0.9 * index / max(1, len(lines) - 1))
        rates = [Rate(int(row["forgotten_held_out"]), int(row["forgotten_held_out_of"])) for row in own]
        shares = [rate.share or 0.0 for rate in rates]
        ends = [rate.interval() or (0.0, 0.0) for rate in rates]
        reach = [
            [share - low for share, (low, _) in zip(shares, ends, strict=True)],
            [high - share for share, (_, high) in zip(shares, ends, strict=True)],
        ]
        label = f"batch {batch}, refresh {refresh}"
        left.errorbar(sizes, shares, yerr=reach, color=colour, marker="o", elinewidth=0.8, label=label)
        learned = [row["learned"] / row["learned_of"] if row["learned_of"] else 0.0 for row in own]
        right.plot(sizes, learned, color=colour, marker="o")
    sizes_shown = sorted({row["mastered_size"] for row in rows})
    left.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes_shown, [str(size) for size in sizes_shown])
        axes.minorticks_off()
        axes.set_xlabel("items of M train")
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
        axes.set_ylim(bottom=0)
    return [save(figure, folder / "mastered_size.png")]
