"""The model registry: a run's model becomes a version with the alias `candidate`; `promotion.py` does the rest."""

import hashlib
import importlib.metadata
import json
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlflow.pyfunc
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array

from cpl_ray import qa_model
from cpl_ray.assessment import read_assessment
from cpl_ray.atomic import atomic_write_text
from cpl_ray.config import Config
from cpl_ray.digest import items_digest, model_digest
from cpl_ray.errors import UserError
from cpl_ray.mlflow_client import UPLOAD_TIMEOUT_S, TrackedRun, limited_http, open_store, understood, version_of
from cpl_ray.rundir import read_json
from cpl_ray.tracking_uri import redact

CANDIDATE = "candidate"
TEST_SET = "mastered_test_digest"
"""Tag: which items the version was measured on, held-out."""
SETTINGS = "settings_digest"
"""Tag: how the version asks and answers, see `qa_model.settings_of`."""
_RATES = (("forgotten", "held_out"), ("learned",), ("learned_held_out",), ("forgotten", "in_set"))
_PACKAGES = ("mlflow", "torch", "transformers", "safetensors", "pydantic", "pyarrow", "pyyaml", "jinja2", "pandas")


@dataclass(frozen=True)
class RegisteredVersion:
    """A version in the registry."""

    name: str
    version: str
    uri: str
    """`models:/<name>/<version>`."""


def register(config: Config, run_dir: Path, tracked: TrackedRun) -> RegisteredVersion:
    """Log the run's model as a pyfunc with its Hugging Face folder inside, register it, and set alias `candidate`.

    A model that this run has registered before, unchanged, keeps its version, also if it was killed before it could
    note that; tags and alias are set again. Writes `<run>/registered.json`.

    Raises:
        UserError: there is no model, or MLflow cannot be reached or refuses.
    """
    folder = run_dir / "model"
    if not (folder / "config.json").is_file():
        raise UserError(f"there is no model in {folder}; run `cpl train` first")
    result = read_json(run_dir / "result.json") if (run_dir / "result.json").is_file() else {}
    settings = qa_model.settings_of(config, _scorer(config, run_dir))
    tags = {"model_digest": model_digest(folder), SETTINGS: _digest(settings)}
    identity = {"model_digest": tags["model_digest"], "settings": settings, "tracking_uri": redact(tracked.uri)}
    name = config.tracking.model_name
    with understood(tracked.uri):
        client = open_store(tracked.uri)
        version = _earlier(client, run_dir, name, identity) or _unnoted(client, name, tracked.run_id, tags)
        if version is None:
            version = _new_version(client, name, _log_model(client, config, run_dir, tracked, settings), tags)
        registered = RegisteredVersion(name, str(version.version), f"models:/{name}/{version.version}")
        about = {"run_name": run_dir.name, "scorer": settings["assess"]["scorer"], **_headline(result)}
        with limited_http():
            about |= tags | _test_set(run_dir)
            for key, value in about.items():
                client.set_model_version_tag(name, registered.version, key, value)
            if not version.description:
                text = f"{run_dir.name}: " + ", ".join(f"{key} {value}" for key, value in _headline(result).items())
                client.update_model_version(name, registered.version, text.rstrip(": "))
            set_candidate(client, name, registered.version)
    content = {**asdict(registered), **identity, "run_id": tracked.run_id}
    atomic_write_text(run_dir / "registered.json", json.dumps(content, indent=2) + "\n")
    return registered


def _earlier(client: MlflowClient, run_dir: Path, name: str, identity: Mapping[str, Any]) -> ModelVersion | None:
    """Return the version this run has registered before, if it is the same model and the registry still has it."""
    if not (run_dir / "registered.json").is_file():
        return None
    saved = read_json(run_dir / "registered.json")
    if saved.get("name") != name or any(saved.get(key) != value for key, value in identity.items()):
        return None
    try:
        with limited_http():
            version = client.get_model_version(name, saved["version"])
    except MlflowException as error:
        if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            return None
        raise
    return version if version.tags.get("model_digest") == identity["model_digest"] else None


def _unnoted(client: MlflowClient, name: str, run_id: str, tags: Mapping[str, str]) -> ModelVersion | None:
    """Return the version that this run made of the same model and was killed before it could write it down."""
    with limited_http():
        versions = client.search_model_versions(f"run_id = '{run_id}'", order_by=["version_number DESC"])
    return next((one for one in versions if one.name == name and tags.items() <= one.tags.items()), None)


def _log_model(
    client: MlflowClient, config: Config, run_dir: Path, tracked: TrackedRun, settings: Mapping[str, Any]
) -> LoggedModel:
    """Build the pyfunc folder beside the model and upload it as a logged model of the run."""
    with limited_http():
        logged = client.create_logged_model(
            tracked.experiment_id, name="qa", source_run_id=tracked.run_id, model_type="question-answering"
        )
        client.log_outputs(tracked.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    try:
        # in the run folder: there is room for a model there, and a resumed run deletes what a killed one left
        with tempfile.TemporaryDirectory(dir=run_dir, prefix=".register.part-") as part:
            (Path(part) / "settings.json").write_text(json.dumps(settings, indent=2), "utf-8")
            with limited_http(UPLOAD_TIMEOUT_S), warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # wants an example, for which it would run the model
                mlflow.pyfunc.save_model(
                    path=f"{part}/pyfunc",
                    mlflow_model=Model(run_id=tracked.run_id, model_uuid=logged.model_id, model_id=logged.model_id),
                    python_model=qa_model.__file__,
                    code_paths=[str(Path(qa_model.__file__).parent)],
                    artifacts={qa_model.MODEL: str(run_dir / "model"), qa_model.SETTINGS: f"{part}/settings.json"},
                    signature=_signature(config),
                    pip_requirements=_requirements(),
                )
                client.log_model_artifacts(logged.model_id, f"{part}/pyfunc")
    except BaseException:
        with suppress(MlflowException), limited_http():  # the first failure is the one to be told
            client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    with limited_http():
        return client.finalize_logged_model(logged.model_id, "READY")


def _new_version(client: MlflowClient, name: str, logged: LoggedModel, tags: Mapping[str, str]) -> ModelVersion:
    """Register the logged model; the version has its `tags` from the first moment, for `_unnoted`."""
    with limited_http():
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise
        # not `models:/<id>`: a database store would look that up at the global tracking URI
        source, run_id = logged.artifact_location, logged.source_run_id
        return client.create_model_version(name, source, run_id, tags=dict(tags), model_id=logged.model_id)


def set_candidate(client: MlflowClient, name: str, version: str) -> None:
    """Set the alias. MLflow looks for it and then inserts it, so of several that do so at once all but one fail."""
    try:
        client.set_registered_model_alias(name, CANDIDATE, version)
    except MlflowException:
        if version_of(client, name, CANDIDATE) is None:
            raise
        client.set_registered_model_alias(name, CANDIDATE, version)


def _signature(config: Config) -> ModelSignature:
    texts = [ColSpec(DataType.string, name, required=False) for name in qa_model.COLUMNS if name != "choices"]
    inputs = Schema([*texts, ColSpec(Array(DataType.string), "choices", required=False)])
    params = ParamSchema([ParamSpec("max_new_tokens", DataType.long, config.assess.max_new_tokens)])
    return ModelSignature(inputs, Schema([ColSpec(DataType.string)]), params)


def _requirements() -> list[str]:
    """Return what the pyfunc needs, at the versions of this environment (without local suffixes such as `+cpu`)."""
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in _PACKAGES]


def _scorer(config: Config, run_dir: Path) -> str:
    """Return the scorer that measured the run; `auto` only for a run that was never assessed."""
    for path in (run_dir / "assessment" / "manifest.json", run_dir / "manifest.json"):
        if config.assess.scorer == "auto" and path.is_file():
            scorer = read_json(path).get("scorer")
            if isinstance(scorer, str):
                return scorer
    return config.assess.scorer


def _test_set(run_dir: Path) -> dict[str, str]:
    """Return the tag that names M test, for a run that has been assessed."""
    if not (run_dir / "assessment" / "manifest.json").is_file():
        return {}
    rows = read_assessment(run_dir / "assessment").parts["mastered_test"]
    return {TEST_SET: items_digest([row.item for row in rows])}


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _headline(result: Mapping[str, Any]) -> dict[str, str]:
    """Return the headline rates for tags, e.g. `forgotten_held_out`: `0.0312 (2 of 64)`."""
    said = {}
    for path in _RATES:
        rate: Any = result
        for key in path:
            rate = rate.get(key) if isinstance(rate, Mapping) else None
        if isinstance(rate, Mapping) and rate.get("of"):
            said["_".join(path)] = f"{rate['count'] / rate['of']:.4f} ({rate['count']} of {rate['of']})"
    return said
