"""What the report of a comparison shows, gathered from compare.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpl_ray.card import base_model_name
from cpl_ray.compare_text import Table, counted, heading, table_at_target, table_inside
from cpl_ray.errors import DataError
from cpl_ray.report_charts import Chart, Key
from cpl_ray.report_source import NOT_AS_WRITTEN, read_object
from cpl_ray.report_svg import Axis, Plot, round_up
from cpl_ray.trials import COMPARE_FILE

_LEAST_TOP = 0.1


@dataclass(frozen=True)
class ComparePage:
    """Everything on the page of a comparison; what it has not come to yet is empty here."""

    name: str
    model: str
    state: str
    started: str
    facts: list[tuple[str, str]]
    verdicts: list[str]
    at_target: tuple[str, Table]
    """What the table shows, and the table."""
    inside: tuple[str, Table]
    charts: list[Chart]
    methods: list[tuple[str, str, str]]
    """Name, settings, why its rate was chosen."""
    failed: list[tuple[str, str, str]]


def read_comparison(folder: Path) -> ComparePage:
    """Gather the page of a comparison, finished or not.

    Raises:
        DataError: compare.json is damaged.
    """
    content = read_object(folder / COMPARE_FILE) or {}
    try:
        return _page(folder, content)
    except NOT_AS_WRITTEN as error:
        raise DataError(f"{folder / COMPARE_FILE} is not what `cpl compare` writes ({error!r})") from error


def _page(folder: Path, content: Mapping[str, Any]) -> ComparePage:
    trials = content["trials"]
    ended = sum(trial["state"] == "finished" for trial in trials)
    facts = [
        ("rates", ", ".join(f"{rate:g}" for rate in content["rates"])),
        ("training seeds", ", ".join(map(str, content["seeds"]))),
        ("learned target", f"{100 * content['target']:g}\u00a0%"),
        ("trials", f"{ended} of {content['planned_trials']} finished"),
    ]
    return ComparePage(
        name=str(content["comparison"] or folder.name),
        model=base_model_name(str(content["model"])),
        state=str(content["state"]),
        started=str(content["started"])[:16].replace("T", " "),
        facts=facts,
        verdicts=list(content["verdicts"]),
        at_target=(heading(content, "at_target"), table_at_target(content)),
        inside=(heading(content, "inside"), table_inside(content)),
        charts=[chart for chart in (_chart(content, "at_target"), _chart(content, "inside")) if chart is not None],
        methods=[(row["method"], _settings(row), row["reason"]) for row in content["methods"]],
        failed=[
            (str(trial["index"]), f"{trial['method']}, seed {trial['seed']}", str(trial["error"] or "no message"))
            for trial in trials
            if trial["state"] == "failed"
        ],
    )


def _chart(content: Mapping[str, Any], kind: str) -> Chart | None:
    """Return learned against held-out forgotten of all methods, in one of the two comparisons."""
    rows: Sequence[Mapping[str, Any]] = [row for row in content["methods"] if row[kind] is not None]
    rows = [row for row in rows if row[kind]["forgotten"]["held_out"]["of"]]
    if not rows:
        return None
    found = [(row, row[kind]["learned"], row[kind]["forgotten"]["held_out"]) for row in rows]
    top = min(1.0, round_up(max(_LEAST_TOP, *(rate["high"] for _, _, rate in found))))
    title = "At equal learning" if kind == "at_target" else "Inside the budget"
    plot = Plot(
        Axis(0.0, top, "forgotten, M test", percent=True),
        Axis(0.0, 1.0, "learned", percent=True),
        f"{title}: learned against held-out forgotten of {len(found)} methods.",
    )
    for row, learned, forgotten in found:
        colour = "blue" if row["is_rule"] else "orange"
        place = (forgotten["share"], learned["share"])
        plot.whisker((forgotten["low"], place[1]), (forgotten["high"], place[1]), colour)
        plot.whisker((place[0], learned["low"]), (place[0], learned["high"]), colour)
        words = f"{row['method']}: learned {counted(learned)}, forgotten {counted(forgotten)}"
        plot.dot(place, colour, radius=4.5, title=words)
    keys = (Key("the rule and its variants", "blue", "dot"), Key("other methods", "orange", "dot"))
    return Chart(title, plot.render(), keys, "Whiskers are 95 % intervals; a point tells its method when pointed at.")


def _settings(row: Mapping[str, Any]) -> str:
    rates = ", ".join(f"{rate:g}" for rate in row["rates"]) if row["own_rates"] else ""
    said = [f"{key}={value}" for key, value in row["settings"].items()]
    return ", ".join([*said, *([f"own rates {rates}"] if rates else [])])
