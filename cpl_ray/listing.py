"""What lies in a folder of runs: state and numbers of each run, sweep and study, read from its files alone.

Nothing is written, locked or imported that is heavy. A file that cannot be read makes its run `damaged`, with the
reason; a folder that holds no run is left out.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cpl_ray.errors import ConfigError
from cpl_ray.lock import is_held
from cpl_ray.measures import Rate
from cpl_ray.metrics_log import last_record
from cpl_ray.run_files import DamagedError, read_object, saved_config
from cpl_ray.studies.findings import PAGE
from cpl_ray.trials import COMPARE_FILE, SWEEP_FILE

Kind = Literal["run", "sweep", "compare", "study"]
State = Literal["running", "finished", "trained", "assessed", "proposed", "failed", "interrupted", "unknown", "damaged"]
"""`unknown`: begun and not ended, on a system that does not tell whether a process holds the folder."""

CHECKPOINTS = Path("train", "checkpoints")
TRAINING_FAILURE = Path("train", "failure.txt")
SUMMARY = Path("train", "summary.json")
PROPOSED = "proposed.json"
_BEGAN = ("environment.json", "config.yaml", SWEEP_FILE, COMPARE_FILE, PAGE)
_RECORDS = ("config.yaml", "environment.json", "tracking.json", "manifest.json", "metrics.jsonl", PROPOSED)
_WORK = (*_RECORDS, "model", "flips.parquet")
"""What a run writes while it works; later verbs, such as `cpl promote`, leave these alone."""
_OURS = ("metrics.jsonl", "assessment", "result.json")
_PAGES: dict[str, Kind] = {SWEEP_FILE: "sweep", COMPARE_FILE: "compare", PAGE: "study"}
_SWEEP_STATES: dict[str, State] = {"running": "running", "finished": "finished", "interrupted": "interrupted"}


@dataclass(frozen=True)
class Listed:
    """One run, sweep, comparison or study."""

    name: str
    kind: Kind
    state: State
    folder: str
    model: str | None = None
    rule: str | None = None
    learned: Mapping[str, Any] | None = None
    """Count, of, share and interval; before evaluation the last one during training; of a sweep that of its best point,
    of a comparison that of the rule."""
    forgotten_held_out: Mapping[str, Any] | None = None
    updates: int | None = None
    trials: Mapping[str, int] | None = None
    """Of a sweep or comparison: number of trials by state."""
    study: str | None = None
    """Name of the study."""
    started: float | None = None
    """Unix seconds."""
    ended: float | None = None
    """Unix seconds of the last sign of work; None while running."""
    problem: str | None = None
    """Why it is damaged."""

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, for JSON."""
        return asdict(self)


def list_runs(base: Path) -> list[Listed]:
    """Return the runs, sweeps and studies directly below `base`, those that began last first.

    Raises:
        ConfigError: `base` is no folder.
    """
    if not base.is_dir():
        raise ConfigError(f"there is no folder {base} of runs; name another with --runs")
    try:
        folders = [path for path in base.iterdir() if not path.name.startswith(".") and path.is_dir()]
    except OSError as error:
        raise ConfigError(f"the folder {base} cannot be read: {error.strerror}") from None
    found = [listed for folder in folders if (listed := look_at(folder)) is not None]
    return sorted(found, key=lambda one: (-(one.started or 0.0), one.name))


def look_at(folder: Path) -> Listed | None:
    """Return what a folder holds; None where it is neither a run, a sweep, a comparison nor a study."""
    page = next((name for name in _PAGES if (folder / name).exists()), None)
    try:
        if page is not None:
            return _study(folder) if page == PAGE else _book(folder, page)
        if (folder / "config.yaml").exists():
            return _run(folder)
        if (folder / "train").is_dir() and any((folder / name).exists() for name in _OURS):
            raise DamagedError("config.yaml is missing")
    except DamagedError as error:
        kind: Kind = "run" if page is None else _PAGES[page]
        return Listed(folder.name, kind, "damaged", str(folder), started=_started(folder), problem=str(error))
    except OSError as error:  # a folder without permission, or one that is deleted while it is looked at
        reason = f"{error.filename}: {error.strerror}"
        return Listed(folder.name, "run", "damaged", str(folder), problem=reason)
    return None


def as_rate(value: Any) -> dict[str, Any] | None:
    """Return `value` if it is a rate (`count`, `of`, …), completed by share and interval; else None."""
    if not isinstance(value, Mapping):
        return None
    count, of = value.get("count"), value.get("of")
    if not isinstance(count, int) or not isinstance(of, int) or not 0 <= count <= of:
        return None
    return {**Rate(count, of).to_dict()}


def newest_failure(folder: Path) -> Path | None:
    """Return the newest record of a failure in a run folder."""
    found = [path for path in (*folder.glob("failure-*.txt"), folder / TRAINING_FAILURE) if path.is_file()]
    # of a failed training both are written; that in the run folder, the later one, names the other
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def newest_checkpoint(folder: Path) -> int | None:
    """Return the updates done at the newest complete checkpoint."""
    found = [path.parent.name for path in (folder / CHECKPOINTS).glob("step_*/manifest.json")]
    steps = [int(name.removeprefix("step_")) for name in found if name.removeprefix("step_").isdigit()]
    return max(steps, default=None)


def evaluated(folder: Path, name: str) -> dict[str, Any] | None:
    """Return a rate such as `learned` of the last evaluation during training."""
    record = last_record(folder / "metrics.jsonl", "eval")
    if record is None or not record.values.get(f"{name}_of"):
        return None
    count, of = record.values.get(name, 0.0), record.values[f"{name}_of"]
    return as_rate({"count": int(count), "of": int(of)}) if math.isfinite(count) and math.isfinite(of) else None


def _run(folder: Path) -> Listed:
    config = saved_config(folder)
    result = read_object(folder / "result.json")
    state = _state(folder, finished=result is not None)
    forgotten = (result or {}).get("forgotten")
    last = last_record(folder / "metrics.jsonl", "train")
    updates = (result or {}).get("steps", last.step if last is not None else None)
    return Listed(
        folder.name,
        "run",
        state,
        str(folder),
        model=config.model,
        rule=config.train.rule,
        learned=evaluated(folder, "learned") if result is None else as_rate(result.get("learned")),
        forgotten_held_out=as_rate(forgotten.get("held_out")) if isinstance(forgotten, Mapping) else None,
        updates=updates if isinstance(updates, int) else None,
        started=_started(folder),
        ended=None if state == "running" else _last_work(folder),
    )


def _state(folder: Path, *, finished: bool) -> State:
    held = is_held(folder)
    if held:
        return "running"
    failure = newest_failure(folder)
    if finished:
        return "finished"
    if failure is not None and failure.stat().st_mtime >= (_last_work(folder, but_failures=True) or 0.0):
        return "failed"
    if (folder / "model").is_dir():
        return "trained"
    if (folder / "assessment").is_dir() and not (folder / "train").exists():
        return "assessed"
    if (folder / PROPOSED).is_file():
        return "proposed"
    return "interrupted" if held is False else "unknown"


def _book(folder: Path, page: str) -> Listed:
    content = read_object(folder / page)
    assert content is not None
    said = content.get("state")
    state = _SWEEP_STATES.get(said) if isinstance(said, str) else None
    if state is None:
        raise DamagedError(f"{page}: state is {said!r}; expected one of {', '.join(_SWEEP_STATES)}")
    held = is_held(folder)
    if held:
        state = "running"
    elif state == "running":
        state = "interrupted" if held is False else "unknown"
    trials: dict[str, int] = {}
    for trial in rows_of(content, "trials", page):
        trials[str(trial.get("state"))] = trials.get(str(trial.get("state")), 0) + 1
    best = best_point(content) if page == SWEEP_FILE else reference_row(content)
    forgotten = best.get("forgotten")
    model = content.get("model")
    return Listed(
        folder.name,
        _PAGES[page],
        state,
        str(folder),
        model=model if isinstance(model, str) else None,
        rule=saved_config(folder).train.rule if (folder / "config.yaml").exists() else None,
        learned=as_rate(best.get("learned")),
        forgotten_held_out=as_rate(forgotten.get("held_out")) if isinstance(forgotten, Mapping) else None,
        trials=trials,
        started=_started(folder),
        ended=None if state == "running" else _modified(folder / page),
    )


def _study(folder: Path) -> Listed:
    content = read_object(folder / PAGE)
    assert content is not None
    name, at = content.get("study"), _modified(folder / PAGE)
    if not isinstance(name, str):
        raise DamagedError(f"{PAGE}: study is {name!r}; expected a name")
    held, failure = is_held(folder), newest_failure(folder)
    state: State = "interrupted" if held is False else "unknown"
    if held:
        state = "running"
    elif "verdict" in content:
        state = "finished"
    elif failure is not None and failure.stat().st_mtime >= (at or 0.0):
        state = "failed"
    return Listed(
        folder.name,
        "study",
        state,
        str(folder),
        model=saved_config(folder).model if (folder / "config.yaml").exists() else None,
        study=name,
        started=_started(folder),
        ended=None if state == "running" else max(at or 0.0, _last_work(folder) or 0.0),
    )


def rows_of(content: Mapping[str, Any], key: str, page: str = SWEEP_FILE) -> list[dict[str, Any]]:
    """Return the objects in a list of sweep.json or compare.json.

    Raises:
        DamagedError: it is no list of objects.
    """
    rows = content.get(key, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DamagedError(f"{page}: {key} is not a list of objects")
    return rows


def best_point(sweep: Mapping[str, Any]) -> dict[str, Any]:
    """Return the point that a sweep calls its best; empty where there is none yet."""
    best = sweep.get("best")
    chosen = best.get("point_id") if isinstance(best, Mapping) else None
    return next((point for point in rows_of(sweep, "points") if point.get("point_id") == chosen), {})


def reference_row(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the rule did at equal learning in a comparison; empty where it was not measured yet."""
    rows = rows_of(comparison, "methods", COMPARE_FILE)
    own = next((row for row in rows if row.get("method") == comparison.get("reference")), {})
    found = own.get("at_target")
    return found if isinstance(found, dict) else {}


def _started(folder: Path) -> float | None:
    times = [at for name in _BEGAN if (at := _modified(folder / name)) is not None]
    return min(times, default=None)


def _last_work(folder: Path, *, but_failures: bool = False) -> float | None:
    failure = None if but_failures else newest_failure(folder)
    paths = [*(folder / name for name in _WORK), *([failure] if failure else [])]
    return max((at for path in paths if (at := _modified(path)) is not None), default=None)


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def age_of(listed: Listed) -> tuple[float | None, float | None]:
    """Return how long ago a run began and how long it worked or has worked, pauses included, in seconds."""
    if listed.started is None:
        return None, None
    now = time.time()
    return now - listed.started, (listed.ended or now) - listed.started
