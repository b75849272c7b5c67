"""What `cpl validate` looks at: the model's folder, the places to write to, the items. Loads no model."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from cpl_ray.config import Config
from cpl_ray.errors import UserError
from cpl_ray.model_files import model_problems
from cpl_ray.model_source import local_source
from cpl_ray.rundir import runs_folder

Findings = tuple[list[str], list[str]]
"""Problems, which make the configuration invalid, and remarks."""

_SOURCES = ("items", "mastered", "mastered_held_out", "injection", "injection_held_out")


@dataclass
class DataFound:
    """What the sources hold."""

    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    num_items: dict[str, int] = field(default_factory=dict)
    """Usable items per source (`items`, `mastered`, …) or, with `data.assessment`, per part."""
    scorer: str | None = None
    """The scorer that will be used; None if that is not known before the items are read."""


def check_model(config: Config) -> Findings:
    """Check a local model folder: a configuration of a known kind, whole safetensors, a tokenizer; trust a hub id."""
    try:
        folder = local_source(config.model)
    except UserError as error:
        return [str(error)], []
    if folder is None:
        return [], [f"model: {config.model!r} is no local folder; it is taken as a hub id and not checked"]
    return model_problems(config.model, folder, trust_remote_code=config.trust_remote_code), []


def check_places(config: Config) -> Findings:
    """Check, without writing, that the run folder can be made, and that the tracking address is one MLflow takes."""
    from cpl_ray.tracking_uri import default_uri

    problems, remarks = [], []
    try:
        base = runs_folder(config)
    except UserError as error:
        return [str(error)], []
    existing = existing_part(base)
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        problems.append(f"run.dir: cannot write to {base}: {existing} is not a writable folder")
    elif config.run.name is not None and (base / config.run.name).exists():
        if not (config.run.resume or config.run.overwrite):
            remarks.append(f"run.name: {config.run.name!r} exists already; `cpl run` needs run.resume or run.overwrite")
    elif config.run.resume:
        problems.append(f"run.resume: there is no run {config.run.name!r} in {base}")
    if config.tracking.enabled:
        try:
            default_uri(config, base)
        except UserError as error:
            problems.append(str(error))
    return problems, remarks


def existing_part(path: Path) -> Path:
    """Return the deepest folder or file of an absolute path that exists."""
    return next(one for one in (path, *path.parents) if one.exists())


def check_propose(config: Config) -> None:
    """Check the scorer and the file of prompts of `cpl propose`.

    Raises:
        UserError: one of them cannot be used.
    """
    from cpl_ray.proxy_prompts import check_scorer, seeds_of

    check_scorer(config)
    seeds_of(config)


def check_data(config: Config) -> DataFound:
    """Read every source, within its error budget, and check brought sets for leaks."""
    found = DataFound()
    try:
        if config.data.assessment is not None:
            _check_assessment(config.data.assessment, found)
        else:
            _check_sources(config, found)
    except UserError as error:
        found.problems.append(str(error))
    return found


def _check_assessment(folder: str, found: DataFound) -> None:
    from cpl_ray.assessment import read_assessment

    assessment = read_assessment(folder)
    found.num_items = {part: len(rows) for part, rows in assessment.parts.items()}
    found.scorer = assessment.manifest.get("scorer")


def _check_sources(config: Config, found: DataFound) -> None:
    from cpl_ray.assessment import resolve_scorer
    from cpl_ray.items import Item
    from cpl_ray.reading import read_items
    from cpl_ray.split import check_leaks, parts_from_brought

    sets: dict[str, list[Item]] = {}
    sources = {name: source for name in _SOURCES if (source := config.data.__dict__[name]) is not None}
    if not sources:
        found.problems.append(
            "no items: set data.items (to be split by what the model knows), or data.mastered and data.injection"
        )
    for name, source in sources.items():
        try:
            read = read_items(source, config.data, name=f"data.{name}", keep_duplicates=name != "items")
        except UserError as error:
            found.problems.append(str(error))
            continue
        sets[name] = read.items
        found.num_items[name] = len(read.items)
        if not read.rejected:
            continue
        first = "; ".join(f"{row.file} row {row.row}: {row.reason}" for row in read.rejected[:3])
        message = f"data.{name}: {len(read.rejected)} of {read.num_rows} rows cannot be used ({first})"
        if len(read.rejected) > config.data.max_rejected * read.num_rows:
            found.problems.append(f"{message}, more than data.max_rejected={config.data.max_rejected:g} allows")
        else:
            found.remarks.append(f"{message}; they will be set aside")
    if sets and not found.problems:
        found.scorer = resolve_scorer(config.assess.scorer, [item for items in sets.values() for item in items])
        if "mastered" in sets and "injection" in sets:
            check_leaks(
                parts_from_brought(
                    sets["mastered"],
                    sets.get("mastered_held_out", []),
                    sets["injection"],
                    sets.get("injection_held_out", []),
                    None,
                )
            )
