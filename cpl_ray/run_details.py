"""All that the files of one run, sweep or study tell, for `cpl runs show`."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cpl_ray.errors import ConfigError
from cpl_ray.listing import (
    SUMMARY,
    age_of,
    as_rate,
    best_point,
    list_runs,
    look_at,
    newest_checkpoint,
    newest_failure,
    rows_of,
)
from cpl_ray.metrics_log import last_record
from cpl_ray.run_files import DamagedError, read_object
from cpl_ray.studies.findings import PAGE
from cpl_ray.trials import COMPARE_FILE, SWEEP_FILE

STAGES = {"assess": "assessment", "train": "model", "evaluate": "result.json", "register": "registered.json"}
"""What each stage leaves when it is done."""
_PLACES = ("model", "report.html", "figures", "flips.parquet", "metrics.jsonl")
_PLACES_OF_STUDY = ("verdict.md", "data", "figures", "runs")
_SHOWN_RUNS = 5
_SHOWN_CHARACTERS = 2000


def find_run(name: str, base: Path) -> dict[str, Any]:
    """Return the details of the run, sweep or study called `name` in `base`, or lying in the folder `name`.

    Raises:
        ConfigError: there is none; the message lists the newest in `base`.
    """
    for folder in (base / name, Path(name).expanduser().absolute()):
        if name and folder.is_dir() and (details := details_of(folder)) is not None:
            return details
    newest = ", ".join(one.name for one in list_runs(base)[:_SHOWN_RUNS]) if base.is_dir() else ""
    known = f"; newest there: {newest}" if newest else ""
    raise ConfigError(f"there is no run or sweep {name!r} in {base}{known}; name one, or its folder")


def details_of(folder: Path) -> dict[str, Any] | None:
    """Return what is known of a run, sweep or study; None where the folder holds none.

    Returns:
        The fields of `Listed`, `age_s`, `took_s`, and where they exist: `stages`, `rates` (as in result.json),
        `places`, `mlflow`, `registered`, `gate`, `last_update`, `last_evaluation`, `failure`, `checkpoint_step`; of a
        sweep `sweep` (all of sweep.json) and `best_point`; of a comparison `comparison` (all of compare.json); of a
        study `headline`, `verdict` (None until it has finished), `runs` (as `Listed`), `places` and `failure`.
    """
    listed = look_at(folder)
    if listed is None:
        return None
    age_s, took_s = age_of(listed)
    found: dict[str, Any] = listed.to_dict() | {"age_s": age_s, "took_s": took_s}
    if listed.kind == "sweep":
        return found | _of_sweep(folder)
    if listed.kind == "compare":
        return found | {"comparison": _readable(folder / COMPARE_FILE) or None}
    if listed.kind == "study":
        return found | _of_study(folder)
    found["stages"] = {stage: (folder / name).exists() for stage, name in STAGES.items()}
    found["places"] = {name: str(folder / name) for name in _PLACES if (folder / name).exists()}
    result = _readable(folder / "result.json")
    summary = _readable(folder / SUMMARY)
    found["rates"] = _rates(result)
    found["gate"] = result.get("gate") if isinstance(result.get("gate"), Mapping) else None
    found["train_s"] = summary.get("train_s", result.get("train_s"))
    found["stopped_at_learned"] = summary.get("stopped_at_learned", result.get("stopped_at_learned"))
    found["mlflow"] = _readable(folder / "tracking.json") or None
    registered = _readable(folder / "registered.json")
    found["registered"] = {key: registered.get(key) for key in ("name", "version", "uri")} if registered else None
    for key, kind in (("last_update", "train"), ("last_evaluation", "eval")):
        record = last_record(folder / "metrics.jsonl", kind)
        found[key] = asdict(record) if record is not None else None
    found["failure"] = _failure(folder)
    found["checkpoint_step"] = newest_checkpoint(folder)
    return found


def _of_study(folder: Path) -> dict[str, Any]:
    content = _readable(folder / PAGE)
    headline, verdict = content.get("headline"), content.get("verdict")
    return {
        "headline": headline if isinstance(headline, Mapping) else {},
        "verdict": verdict if isinstance(verdict, str) else None,
        "runs": [one.to_dict() for one in list_runs(folder / "runs")] if (folder / "runs").is_dir() else [],
        "places": {name: str(folder / name) for name in _PLACES_OF_STUDY if (folder / name).exists()},
        "failure": _failure(folder),
    }


def _failure(folder: Path) -> dict[str, str] | None:
    newest = newest_failure(folder)
    return None if newest is None else {"path": str(newest), "text": _text(newest)}


def _of_sweep(folder: Path) -> dict[str, Any]:
    try:
        content = read_object(folder / SWEEP_FILE) or {}
        rows_of(content, "trials")
        return {"sweep": content, "best_point": best_point(content) or None}
    except (DamagedError, OSError):  # the reason is in `problem`
        return {"sweep": None, "best_point": None}


def _rates(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the headline shows of a result."""
    forgotten = result.get("forgotten")
    parts = forgotten if isinstance(forgotten, Mapping) else {}
    return {
        "forgotten": {name: as_rate(rate) for name, rate in parts.items()},
        "learned": as_rate(result.get("learned")),
        "learned_held_out": as_rate(result.get("learned_held_out")),
    }


def _readable(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`; empty where there is none (the listing names a damaged result)."""
    try:
        return read_object(path) or {}
    except (DamagedError, OSError, json.JSONDecodeError):
        return {}


def _text(path: Path) -> str:
    """Return the end of a failure's record, where the cause stands."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return text if len(text) <= _SHOWN_CHARACTERS else "…" + text[-_SHOWN_CHARACTERS:]
