"""One run, sweep, comparison or study on a page: lines to be read, searched and copied, and tables of its numbers."""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from cpl_ray.studies.findings import PAGE
from cpl_ray.trials import COMPARE_FILE, SWEEP_FILE
from pipelines.ages import duration
from pipelines.compare import show_comparison
from pipelines.headline import show_headline
from pipelines.runs import counted
from pipelines.tables import print_table

_UPDATE_NUMBERS = ("loss_injection", "loss_mastered", "collaborative_share", "flip_rate", "lr", "tokens_per_s")
_FILES = {"sweep": SWEEP_FILE, "compare": COMPARE_FILE, "study": PAGE, "run": "result.json"}
_EVALUATION_NUMBERS = ("learned", "forgotten_validation", "forgotten_in_set")


def print_page(found: Mapping[str, Any]) -> None:
    """Print the details that `find_run` found.

    Raises:
        DataError: they hold what no stage writes; names the file.
    """
    from cpl_ray.report_source import as_written

    with as_written(Path(found["folder"]) / _FILES[found["kind"]]):
        _print_page(found)


def _print_page(found: Mapping[str, Any]) -> None:
    of_kind = {"sweep": _sweep_lines, "compare": _book_lines, "study": _study_lines, "run": _run_lines}
    lines = [*_head(found), *of_kind[found["kind"]](found)]
    width = max(len(label) for label, _ in lines)
    for label, text in lines:
        print(f"{label:<{width}}  {text}")
    if found["kind"] != "run":
        if found["kind"] == "sweep":
            _print_sweep(found["sweep"] or {})
        elif found["kind"] == "study":
            _print_study(found)
        elif found["comparison"] and found["state"] != "damaged":
            show_comparison(found["comparison"], None)
        if found["resume"]:
            print(f"\ncontinue, in the folder that it was started in:\n{found['resume']}")
        return
    show_headline(found["rates"], None)
    if found["failure"]:
        print(f"\n{found['failure']['path']}:\n{found['failure']['text']}")
    if found["resume"]:
        start = found["checkpoint_step"]
        place = "" if found["stages"]["train"] else f" (training {f'from update {start}' if start else 'anew'})"
        print(f"\ncontinue{place}, in the folder that it was started in:\n{found['resume']}")


def _head(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield found["kind"], found["name"]
    yield "state", found["state"] + (f": {found['problem']}" if found["problem"] else "")
    if found["model"] is not None:
        yield "base model", found["model"]
    if found["rule"] is not None:
        yield "rule", found["rule"]
    if found["started"] is not None:
        began = datetime.fromtimestamp(found["started"]).strftime("%Y-%m-%d %H:%M")
        yield "started", f"{began}, {duration(found['age_s'])} ago; took {duration(found['took_s'])}"
    yield "folder", found["folder"]


def _run_lines(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "stages done", ", ".join(stage for stage, done in found["stages"].items() if done) or "none"
    if found["updates"] is not None:
        stopped = ", stopped at the learned target" if found["stopped_at_learned"] else ""
        took = f" in {duration(found['train_s'])}" if isinstance(found["train_s"], int | float) else ""
        yield "updates", f"{found['updates']}{took}{stopped}"
    if found["last_update"]:
        yield "last update", _numbers(found["last_update"], _UPDATE_NUMBERS)
    if found["last_evaluation"]:
        yield "last evaluation", _counts(found["last_evaluation"])
    yield from found["places"].items()
    if found["mlflow"]:
        yield "MLflow run", f"{found['mlflow'].get('run_id')} at {found['mlflow'].get('uri')}"
    if found["registered"]:
        yield "registered", f"{found['registered']['name']} version {found['registered']['version']}"
    gate = found["gate"]
    if gate is not None:
        reasons = "; ".join(map(str, gate.get("reasons") or ()))
        yield "gate", "admitted" if gate.get("admitted") is True else f"refused: {reasons}"


def _numbers(record: Mapping[str, Any], names: tuple[str, ...]) -> str:
    values = record["values"]
    return f"{record['step']}: " + ", ".join(f"{name} {values[name]:.4g}" for name in names if name in values)


def _counts(record: Mapping[str, Any]) -> str:
    values = record["values"]
    parts = [
        f"{name} {values[name]:.0f} of {values[f'{name}_of']:.0f}"
        for name in _EVALUATION_NUMBERS
        if name in values and values.get(f"{name}_of")
    ]
    return f"at update {record['step']}: {', '.join(parts)}"


def _book_lines(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if found["trials"]:
        yield "trials", ", ".join(f"{count} {state}" for state, count in sorted(found["trials"].items()))


def _study_lines(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if found["study"] is not None:
        yield "asks", found["study"]
    yield from found["places"].items()
    for name, value in found["headline"].items():
        yield name, f"{value:.4g}" if isinstance(value, int | float) else "not measured"


def _print_study(found: Mapping[str, Any]) -> None:
    if found["runs"]:
        columns = ("run", "state", "rule", "learned", "forgotten held-out", "updates")
        print_table(columns, [_study_row(row) for row in found["runs"]])
    if found["verdict"]:
        print(found["verdict"])
    if found["failure"] and found["state"] == "failed":
        print(f"\n{found['failure']['path']}:\n{found['failure']['text']}")


def _study_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    rates = (counted(row["learned"]), counted(row["forgotten_held_out"]))
    updates = "" if row["updates"] is None else str(row["updates"])
    return (row["name"], row["state"], row["rule"] or "", *rates, updates)


def _sweep_lines(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    sweep = found["sweep"] or {}
    yield from _book_lines(found)
    for key in ("algorithm", "seeds", "space"):
        if key in sweep:
            yield key, sweep[key] if isinstance(sweep[key], str) else json.dumps(sweep[key], ensure_ascii=False)
    best = sweep.get("best")
    if isinstance(best, Mapping):
        point = found["best_point"] or {}
        yield "best", f"point {best.get('point_id')} ({_point(point.get('point'))}): {best.get('reason', '')}"
    smallest = sweep.get("smallest_mastered_set")
    if isinstance(smallest, Mapping):
        yield "smallest mastered set", str(smallest.get("text") or smallest.get("mastered_size"))


def _print_sweep(sweep: Mapping[str, Any]) -> None:
    points, trials = sweep.get("points") or [], sweep.get("trials") or []
    if points:
        columns = ("point", "settings", "learned", "forgotten validation", "held-out", "in-set", "trials", "Pareto")
        print_table(columns, [_point_row(point) for point in points])
    if trials:
        known = ("trial", "point", "seed", "state", "learned", "forgotten validation", "held-out", "updates", "took")
        print_table((*known, "run"), [_trial_row(trial) for trial in trials])
    for trial in trials:
        if trial.get("error"):
            print(f"trial {trial.get('index')} failed: {trial['error']}")


def _point_row(point: Mapping[str, Any]) -> tuple[str, ...]:
    head = (str(point.get("point_id", "")), _point(point.get("point")), _rate(point.get("learned")))
    trials = ", ".join(map(str, point.get("trials") or ()))
    return (*head, *_forgotten(point, "validation", "held_out", "in_set"), trials, "*" if point.get("pareto") else "")


def _trial_row(trial: Mapping[str, Any]) -> tuple[str, ...]:
    seconds = trial.get("seconds")
    return (
        *(str(trial.get(key, "")) for key in ("index", "point_id", "seed", "state")),
        _rate(trial.get("learned")),
        *_forgotten(trial, "validation", "held_out"),
        "" if trial.get("steps") is None else str(trial["steps"]),
        duration(seconds) if isinstance(seconds, int | float) else "",
        str(trial.get("run_dir") or ""),
    )


def _forgotten(row: Mapping[str, Any], *names: str) -> list[str]:
    parts = row.get("forgotten")
    return [_rate(parts.get(name)) if isinstance(parts, Mapping) else "" for name in names]


def _rate(value: Any) -> str:
    from cpl_ray.listing import as_rate

    return counted(as_rate(value))


def _point(point: Any) -> str:
    return ", ".join(f"{key}={value}" for key, value in point.items()) if isinstance(point, Mapping) else ""
