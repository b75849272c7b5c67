"""Figures of the study `similarity`."""

from pathlib import Path

from matplotlib.ticker import MaxNLocator, PercentFormatter

from cpl_ray.figures import BLUE, GREEN, ORANGE
from cpl_ray.studies.findings import Findings
from cpl_ray.studies.similarity import CLAIM, shares_by
from cpl_ray.study_canvas import panels, save


def draw_similarity(findings: Findings, folder: Path) -> list[Path]:
    """Draw the histogram of s_j, shares by layer and type, the course, and S by item. Returns the paths."""
    return [
        _histogram(findings, folder / "histogram.png"),
        _shares(findings, folder / "shares.png"),
        _course(findings, folder / "course.png"),
        _items(findings, folder / "items.png"),
    ]


def _histogram(findings: Findings, path: Path) -> Path:
    figure, (axes,) = panels("Contributions s_j at the base model")
    rows = findings.tables["histogram"].to_pylist()
    for side, colour, sign in (("conflicting", ORANGE, -1), ("collaborative", BLUE, 1)):
        own = [row for row in rows if row["side"] == side and row["count"]]
        places = [row["log10_low"] for row in own]
        axes.bar(places, [sign * row["count"] for row in own], width=0.5, align="edge", color=colour, label=side)
    axes.set_xlabel("log10 |s_j|")
    axes.set_ylabel("parameters (conflicting downwards)")
    axes.legend(frameon=False)
    return save(figure, path)


def _shares(findings: Findings, path: Path) -> Path:
    base = [row for row in findings.tables["parameters"].to_pylist() if row["step"] == 0]
    figure, both = panels("Conflicting share by layer", "Conflicting share by type")
    for axes, key in zip(both, ("layer", "type"), strict=True):
        shares = shares_by(base, key)
        axes.bar(range(len(shares)), [own["conflict"] for own in shares.values()], color=ORANGE)
        axes.set_xticks(range(len(shares)), list(shares), rotation=90, fontsize=8)
        axes.axhspan(*CLAIM, color="0.85", zorder=0, label="the paper's range")
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
        axes.legend(frameon=False)
    return save(figure, path)


def _course(findings: Findings, path: Path) -> Path:
    rows = findings.tables["course"].to_pylist()
    steps = [row["step"] for row in rows]
    figure, (left, right) = panels("S(M, I) over plain fine-tuning", "Conflicting share over plain fine-tuning")
    left.plot(steps, [row["similarity"] for row in rows], color=GREEN, marker="o")
    left.axhline(0, color="0.5", linewidth=0.8)
    right.plot(steps, [row["conflict"] / row["numel"] for row in rows], color=ORANGE, marker="o")
    right.set_ylim(0, 1)
    right.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
    for axes in (left, right):
        axes.set_xlabel("update")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return save(figure, path)


def _items(findings: Findings, path: Path) -> Path:
    rows = findings.tables["items"].to_pylist()
    figure, (axes,) = panels("S(m, I) of single mastered items at the base model")
    groups = {
        "kept": [row["similarity"] for row in rows if not row["forgotten"]],
        "forgotten": [row["similarity"] for row in rows if row["forgotten"]],
    }
    for place, (values, colour) in enumerate(zip(groups.values(), (BLUE, ORANGE), strict=True)):
        spread = [place + 0.3 * ((index * 0.618) % 1 - 0.5) for index in range(len(values))]
        axes.scatter(spread, values, s=10, color=colour, alpha=0.6)
    axes.set_xticks([0, 1], [f"{name} ({len(values)})" for name, values in groups.items()])
    axes.set_yscale("symlog", linthresh=max(1e-12, _median([abs(row["similarity"]) for row in rows])))
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.set_ylabel("S(m, I)")
    return save(figure, path)


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 1.0
