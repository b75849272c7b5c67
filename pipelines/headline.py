"""The result of a run for people: what was learned and what was forgotten, held-out first."""

from collections.abc import Mapping
from typing import Any

from cpl_ray.rundir import RunDir
from pipelines.tables import print_table

_ROWS = (
    ("forgotten, held-out (M test)", ("forgotten", "held_out")),
    ("learned (I)", ("learned",)),
    ("learned, held-out", ("learned_held_out",)),
    ("forgotten, validation", ("forgotten", "validation")),
    ("forgotten, in-set (M train)", ("forgotten", "in_set")),
)


def show_headline(result: Mapping[str, Any], run: RunDir | None) -> None:
    """Print a table of the rates in `result` (`count`, `of`, `share`, `low`, `high` each) and where the run lies."""
    rows = [(label, rate) for label, path in _ROWS if (rate := _at(result, path)) is not None]
    if rows:
        columns = ("", "count", "of", "share", "95 % interval")
        cells = [(label, str(rate["count"]), str(rate["of"]), _share(rate), _interval(rate)) for label, rate in rows]
        print_table(columns, cells, numbers=True)
    registered = result.get("registered")
    if isinstance(registered, Mapping):
        print(f"registered: {registered.get('name')} version {registered.get('version')}")
    gate = result.get("gate")
    if isinstance(gate, Mapping) and gate.get("admitted") is True:
        print("admitted by the gate: alias champion is set")
    if run is not None:
        print(f"run folder: {run.root}")


def _at(result: Mapping[str, Any], path: tuple[str, ...]) -> Mapping[str, Any] | None:
    found: Any = result
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) and "count" in found and "of" in found else None


def _share(rate: Mapping[str, Any]) -> str:
    share = rate.get("share")
    return "–" if share is None else f"{100 * share:.1f} %"


def _interval(rate: Mapping[str, Any]) -> str:
    low, high = rate.get("low"), rate.get("high")
    return "–" if low is None or high is None else f"{100 * low:.1f}–{100 * high:.1f} %"
