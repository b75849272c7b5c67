"""What the report of a sweep shows, gathered from sweep.json and the folder of its best trial."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpl_ray.card import base_model_name
from cpl_ray.errors import DataError, UserError
from cpl_ray.report_charts import Chart, percent
from cpl_ray.report_run import Measured, RunPage, measured, read_run, summary
from cpl_ray.report_source import NOT_AS_WRITTEN, at, rate_at, read_object
from cpl_ray.report_sweep_charts import pareto_charts, size_chart
from cpl_ray.trials import SWEEP_FILE

_STATES = ("finished", "running", "pending", "stopped", "failed")


@dataclass(frozen=True)
class Cell:
    """One cell of the table of trials."""

    text: str
    order: float | str
    """What the column is sorted by."""
    note: str = ""
    """Smaller, under the text."""
    number: bool = False


@dataclass(frozen=True)
class Trial:
    """One row of the table of trials."""

    cells: list[Cell]
    state: str
    chosen: bool


@dataclass(frozen=True)
class Chosen:
    """The point that the sweep recommends."""

    point: list[tuple[str, str]]
    reason: str
    summary: str
    """What it learned and forgot, in a sentence."""
    lines: list[Measured]
    seeds: int
    spread: str


@dataclass(frozen=True)
class SweepPage:
    """Everything on the page of a sweep; what it has not come to yet is empty here."""

    name: str
    model: str
    state: str
    started: str
    facts: list[tuple[str, str]]
    space: list[tuple[str, str]]
    states: list[tuple[str, int]]
    columns: list[tuple[str, bool]]
    trials: list[Trial]
    pareto: list[Chart]
    sizes: Chart | None
    smallest: str | None
    chosen: Chosen | None
    best_run: RunPage | None
    best_trial: str
    best_missing: str
    failed: list[tuple[str, str, str]]


def read_sweep(folder: Path) -> SweepPage:
    """Gather the page of a sweep, finished or not.

    Raises:
        DataError: sweep.json or a file of the best trial is damaged.
    """
    sweep = read_object(folder / SWEEP_FILE) or {}
    try:
        return _page(folder, sweep)
    except NOT_AS_WRITTEN as error:
        raise DataError(f"{folder / SWEEP_FILE} is not what `cpl sweep` writes ({error!r})") from error


def _page(folder: Path, sweep: dict[str, Any]) -> SweepPage:
    trials: list[dict[str, Any]] = list(sweep.get("trials") or ())
    points = {point["point_id"]: point for point in sweep.get("points") or ()}
    counts = Counter(str(trial["state"]) for trial in trials)
    names = {name: _words(point["point"]) for name, point in points.items()}
    best = points.get(at(sweep, "best", "point_id"))
    best_run, best_trial, missing = _best_run(folder, best, trials)
    budget = sweep.get("budget") or {}
    limits = [
        (label, f"{100 * budget[name]:g}\u00a0%")
        for name, label in (("max_forgetting", "forgetting at most"), ("min_learned", "learned at least"))
        if budget.get(name) is not None
    ]
    facts = [
        ("algorithm", str(sweep.get("algorithm", "–"))),
        ("objectives", ", ".join(map(str, sweep.get("objectives") or ())) or "–"),
        ("training seeds", ", ".join(map(str, sweep.get("seeds") or ())) or "–"),
        ("budget", ", ".join(f"{label} {value}" for label, value in limits) or "–"),
    ]
    keys = list(dict.fromkeys([*(sweep.get("space") or {}), *(key for trial in trials for key in trial["point"])]))
    heads = ("learned", "forgotten, validation", "forgotten, held-out", "updates", "seconds")
    return SweepPage(
        name=str(sweep.get("sweep") or folder.name),
        model=base_model_name(str(sweep.get("model") or "model")),
        state=str(sweep.get("state") or "unknown"),
        started=str(sweep.get("started") or "")[:16].replace("T", " "),
        facts=facts,
        space=[(key, _spec(spec)) for key, spec in (sweep.get("space") or {}).items()],
        states=[(state, counts[state]) for state in [*_STATES, *sorted(set(counts) - set(_STATES))] if counts[state]],
        columns=[("trial", True), *((key, True) for key in keys), ("seed", True), ("state", False)]
        + [(head, True) for head in heads],
        trials=[_trial(trial, keys, sweep) for trial in trials],
        pareto=pareto_charts(sweep, names),
        sizes=size_chart(sweep),
        smallest=at(sweep, "smallest_mastered_set", "text"),
        chosen=None if best is None else _chosen(best, sweep),
        best_run=best_run,
        best_trial=best_trial,
        best_missing=missing,
        failed=[
            (f"{trial['index']}", _words(trial["point"], trial["seed"]), str(trial.get("error") or "no message"))
            for trial in trials
            if trial["state"] == "failed"
        ],
    )


def _best_run(
    folder: Path, best: Mapping[str, Any] | None, trials: list[dict[str, Any]]
) -> tuple[RunPage | None, str, str]:
    """Return the page of the first trial of the best point that was evaluated, its name, and why there is none."""
    if best is None:
        return None, "", ""
    reason = "no trial of the chosen point has a folder any more"
    for trial in trials:
        if trial["index"] not in best["trials"] or not (place := folder / str(trial["run_dir"])).is_dir():
            continue
        try:
            return read_run(place), f"Trial {trial['index']}, seed {trial['seed']}", ""
        except UserError as error:  # a sweep is worth showing also where this trial's folder was emptied or damaged
            reason = str(error)
    return None, "", reason


def _chosen(best: Mapping[str, Any], sweep: Mapping[str, Any]) -> Chosen:
    lines = measured({name: best.get(name) for name in ("learned", "forgotten")}, sweep.get("budget") or {})
    spread = [
        f"{label} {percent(low)} to {percent(high)}"
        for name, label in (("forgotten_held_out", "forgotten held-out"), ("learned", "learned"))
        if (ends := at(best, "spread", name)) and None not in ends
        for low, high in [ends]
    ]
    return Chosen(
        point=[(key, _value(value)) for key, value in best["point"].items()],
        reason=str(at(sweep, "best", "reason") or ""),
        summary=summary(best),
        lines=lines,
        seeds=len(best["trials"]),
        spread=", ".join(spread) if len(best["trials"]) > 1 else "",
    )


def _trial(trial: Mapping[str, Any], keys: list[str], sweep: Mapping[str, Any]) -> Trial:
    point = trial["point"]
    cells = [Cell(str(trial["index"]), float(trial["index"]), number=True)]
    cells += [_setting(point.get(key)) for key in keys]
    chosen = trial["point_id"] == at(sweep, "best", "point_id")
    role = "chosen" if chosen else "front" if trial["point_id"] in (sweep.get("pareto") or ()) else ""
    cells += [_number(trial.get("seed"), "g"), Cell(str(trial["state"]), str(trial["state"]), role)]
    rates = (rate_at(trial, "learned"), *(rate_at(trial, "forgotten", side) for side in ("validation", "held_out")))
    cells += [_rate(rate) for rate in rates]
    cells += [_number(trial.get("steps"), ",.0f"), _number(trial.get("seconds"), ",.1f")]
    return Trial(
        cells=cells,
        state=str(trial["state"]),
        chosen=chosen,
    )


def _setting(value: Any) -> Cell:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(_value(value), float(value) if number else str(value), number=number)


def _number(value: Any, form: str) -> Cell:
    return Cell("–", "", number=True) if value is None else Cell(f"{value:{form}}", float(value), number=True)


def _rate(rate: Mapping[str, Any] | None) -> Cell:
    if rate is None:
        return Cell("–", "", number=True)
    return Cell(percent(rate["share"]), float(rate["share"]), f"{rate['count']} of {rate['of']}", number=True)


def _words(point: Mapping[str, Any], seed: Any = None) -> str:
    parts = [f"{key}={_value(value)}" for key, value in point.items()]
    return ", ".join(parts if seed is None else [*parts, f"seed {seed}"])


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _spec(spec: Any) -> str:
    """Return how a key was searched, in words."""
    if isinstance(spec, Mapping) and len(spec) == 1:
        kind, values = next(iter(spec.items()))
        if kind in ("uniform", "loguniform") and isinstance(values, list | tuple) and len(values) == 2:
            return f"{_value(values[0])} to {_value(values[1])}, {kind}"
        spec, end = values, "" if kind == "grid" else f" ({kind})"
        return (", ".join(map(_value, spec)) if isinstance(spec, list | tuple) else _value(spec)) + end
    return ", ".join(map(_value, spec)) if isinstance(spec, list | tuple) else _value(spec)
