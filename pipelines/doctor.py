"""`cpl doctor`: what a long run needs from the cluster and its services, tried out before it starts."""

import os
import shutil
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from cpl_ray.config import Config
from cpl_ray.errors import UserError
from cpl_ray.notices import notices
from cpl_ray.rundir import runs_folder
from pipelines.checks import check_model, check_places, existing_part
from pipelines.console import AsJson, ConfigPath, Outcome, Overrides, Verbose, execute
from pipelines.tables import print_table

_GIB = 2**30
_HF_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
Check = Callable[[Config], str]
"""Returns what was found, in one line; raises `UserError` where something is wrong."""


def doctor(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Try out what a long run needs: versions, model, disk, Ray cluster, shared storage, MLflow. Trains nothing.

    Writes, reads back and deletes a file in run.dir on every node. Exit code 1 if anything is wrong; all is tried.
    """
    from cpl_ray.loading import load_config

    outcome = Outcome("doctor", as_json, verbose)
    execute(outcome, lambda: examine(load_config(config, overrides or ()), outcome), _show)


def examine(config: Config, outcome: Outcome) -> dict[str, Any]:
    """Try everything and return it.

    Returns:
        `checks`: for each what was looked at (`what`), whether it is fine (`ok`) and what was found (`found`).

    Raises:
        UserError: something is wrong; the message lists all of it.
    """
    from pipelines.session import one_ray_session

    for notice in notices(config):
        outcome.say(notice, event="note")
    found = []
    with one_ray_session():
        for what, check in CHECKS.items():
            try:
                one = {"what": what, "ok": True, "found": check(config)}
            except UserError as error:
                one = {"what": what, "ok": False, "found": str(error)}
            outcome.say(f"{what}: {'' if one['ok'] else 'WRONG: '}{one['found']}", event="check", **one)
            found.append(one)
    wrong = [f"  - {one['what']}: {one['found']}" for one in found if not one["ok"]]
    if wrong:
        count = f"{len(wrong)} things are" if len(wrong) > 1 else "1 thing is"
        raise UserError("\n".join([f"{count} wrong:", *wrong]))
    return {"checks": found}


def _versions(config: Config) -> str:
    """Python and all packages, against what this version of cpl-ray asks for."""
    from packaging.requirements import Requirement

    try:
        needs = metadata.requires("cpl-ray") or []
    except metadata.PackageNotFoundError:
        raise UserError("cpl-ray is not installed as a package here, so what it needs is not known") from None
    wrong = []
    for text in needs:
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            has = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{need.name} is not installed")
            continue
        if not need.specifier.contains(has, prereleases=True):
            wrong.append(f"{need.name} is {has}, needed is {need.specifier}")
    if wrong:
        raise UserError("; ".join(wrong))
    python = ".".join(map(str, sys.version_info[:3]))
    names = ("ray", "torch", "deepspeed", "transformers", "mlflow")
    return f"Python {python}, " + ", ".join(f"{name} {metadata.version(name)}" for name in names)


def _model(config: Config) -> str:
    problems, remarks = check_model(config)
    if problems:
        raise UserError("; ".join(problems))
    if not remarks:
        return f"folder {config.model} has weights and a tokenizer"
    token = any(os.environ.get(name) for name in _HF_TOKENS)
    return f"{remarks[0]}; a hub token is {'set' if token else 'not set (needed for gated models only)'}"


def _disk(config: Config) -> str:
    """Room below `run.dir` for the trained model and two checkpoints (one replaces the other) of float32 Adam."""
    problems, _ = check_places(config)
    if problems:
        raise UserError("; ".join(problems))
    existing = existing_part(runs_folder(config))
    free = shutil.disk_usage(existing).free
    weights = sum(path.stat().st_size for path in Path(config.model).glob("*.safetensors"))
    needed = weights + 2 * 6 * weights  # 12 bytes a parameter, of at least 2 bytes in the model's folder
    said = f"{free / _GIB:.1f} GiB free in {existing}"
    if free < needed:
        raise UserError(f"{said}, {needed / _GIB:.1f} may be needed for a model and checkpoints of {config.model}")
    return said


def _cluster(config: Config) -> str:
    import ray

    from pipelines.session import ray_session

    with ray_session(config, lambda message: None, storage=False):
        slots = ray.cluster_resources()
    cluster = config.cluster
    has = {"CPU": slots.get("CPU", 0.0), "GPU": slots.get("GPU", 0.0)}
    needs = {"CPU": cluster.num_workers * cluster.cpus_per_worker, "GPU": cluster.num_workers * float(cluster.use_gpu)}
    said = f"{has['CPU']:g} CPU slots, {has['GPU']:g} GPUs; the run takes {needs['CPU']:g} and {needs['GPU']:g}"
    if short := [name for name, need in needs.items() if has[name] < need]:
        raise UserError(f"{said}: too few {' and '.join(short)}s; change cluster.num_workers, or add nodes")
    return said


def _storage(config: Config) -> str:
    import ray

    from cpl_ray.shared_storage import check_shared, number_of_nodes

    if not ray.is_initialized():  # the check before this one keeps its session open
        raise UserError("not tried, there is no cluster")
    folder = runs_folder(config)
    if problems := check_shared(folder):
        raise UserError("; ".join(problems))
    count = number_of_nodes()
    return f"{folder} written, read back and deleted on {count} node{'s' if count > 1 else ''}"


def _tracking(config: Config) -> str:
    from cpl_ray.mlflow_client import open_store, understood
    from cpl_ray.tracking_uri import default_uri, redact

    if not config.tracking.enabled:
        return "off (tracking.enabled=false)"
    uri = default_uri(config, runs_folder(config))
    with understood(uri):
        client = open_store(uri)
        experiment = client.get_experiment_by_name(config.tracking.experiment)
        client.search_registered_models(max_results=1)
    if experiment is not None and experiment.lifecycle_stage != "active":
        raise UserError(f"tracking.experiment: {config.tracking.experiment!r} was deleted in MLflow; restore or rename")
    state = "exists" if experiment is not None else "will be made"
    return f"{redact(uri)} and its registry answer; experiment {config.tracking.experiment!r} {state}"


CHECKS: dict[str, Check] = {
    "versions": _versions,
    "model": _model,
    "disk": _disk,
    "cluster": _cluster,
    "shared storage": _storage,
    "MLflow": _tracking,
}


def _show(result: dict[str, Any]) -> None:
    print_table(("what", "found"), ((one["what"], one["found"]) for one in result["checks"]))
    print("all is well")
