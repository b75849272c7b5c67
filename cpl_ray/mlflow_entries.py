"""What a run sends to MLflow: settings, datasets, final numbers, files, and the points of its metric records.

Entries may be sent twice without harm, since nobody knows whether a request that failed here arrived there.
"""

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunStatus, RunTag

from cpl_ray.metrics_log import Record
from cpl_ray.mlflow_client import REQUEST_TIMEOUT_S, UPLOAD_TIMEOUT_S
from cpl_ray.tracking_uri import HIDDEN, is_secret_key, redact

_MAX_METRICS = 900  # MLflow takes 1,000 in one call
_MAX_PARAMS = 100
_MAX_VALUE_CHARS = 6000
_MAX_KEY_CHARS = 250
_MAX_DIGEST_CHARS = 36
_TEXT_SUFFIXES = (".json", ".yaml", ".yml", ".txt", ".md")


@dataclass(frozen=True)
class Entry:
    """Something to be sent once: `send(client, run_id)`. Sending it again changes nothing."""

    send: Callable[[MlflowClient, str], None]
    timeout_s: int = REQUEST_TIMEOUT_S


def params_entry(params: Mapping[str, Any]) -> Entry:
    """Return the settings of a run. MLflow never changes one: a value that differs becomes the tag `resumed.<key>`."""
    flat = flatten(params)

    def send(client: MlflowClient, run_id: str) -> None:
        known = client.get_run(run_id).data.params
        new = [Param(key, value) for key, value in flat.items() if key not in known]
        tags = [RunTag(f"resumed.{k}", v) for k, v in flat.items() if k in known and known[k] != v]
        for start in range(0, len(new), _MAX_PARAMS):
            client.log_batch(run_id, params=new[start : start + _MAX_PARAMS])
        for start in range(0, len(tags), _MAX_PARAMS):
            client.log_batch(run_id, tags=tags[start : start + _MAX_PARAMS])

    return Entry(send)


def datasets_entry(manifest: Mapping[str, Any], run_dir: Path) -> Entry:
    """Return each non-empty part of an assessment as a dataset input: digest and sha256, context = part name."""
    inputs = []
    for part, about in manifest.get("parts", {}).items():
        if not about["rows"]:
            continue
        source = json.dumps({"uri": (run_dir / "assessment" / about["file"]).absolute().as_uri()})
        profile = json.dumps({"num_rows": about["rows"], "sha256": about["sha256"]})
        digest = about["sha256"][:_MAX_DIGEST_CHARS]
        dataset = Dataset(name=part, digest=digest, source_type="local", source=source, profile=profile)
        inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", part)]))
    return Entry(lambda client, run_id: client.log_inputs(run_id, inputs))


def tags_entry(tags: Mapping[str, str]) -> Entry:
    """Return tags of the run, cut to what MLflow holds."""
    all_tags = [RunTag(allowed_key(key), redact(value)[:_MAX_VALUE_CHARS]) for key, value in tags.items()]

    def send(client: MlflowClient, run_id: str) -> None:
        client.log_batch(run_id, tags=all_tags)

    return Entry(send)


def metrics_entry(metrics: Mapping[str, float], step: int) -> Entry:
    """Return final numbers at `step`; one that MLflow has already with the same value is not logged twice."""
    now = int(time.time() * 1000)

    def send(client: MlflowClient, run_id: str) -> None:
        known = client.get_run(run_id).data.metrics
        items = [(allowed_key(key), float(value)) for key, value in metrics.items()]
        client.log_batch(run_id, [Metric(k, v, now, step) for k, v in items if known.get(k) != v])

    return Entry(send)


def artifacts_entry(path: Path) -> Entry:
    """Return a folder (uploaded under its name) or one file; a text file without the secrets of URIs in it."""

    def send(client: MlflowClient, run_id: str) -> None:
        if path.is_dir():
            client.log_artifacts(run_id, str(path), artifact_path=path.name)
        elif path.suffix in _TEXT_SUFFIXES:
            client.log_text(run_id, redact(path.read_text("utf-8", errors="replace")), path.name)
        else:
            client.log_artifact(run_id, str(path))

    return Entry(send, UPLOAD_TIMEOUT_S)


def closing_entry(status: str, *, only_running: bool) -> Entry:
    """Return the end of a run with `status`; with `only_running` a run that has ended keeps what it ended with."""

    def send(client: MlflowClient, run_id: str) -> None:
        if not only_running or client.get_run(run_id).info.status == RunStatus.to_string(RunStatus.RUNNING):
            client.set_terminated(run_id, status)

    return Entry(send)


def first_batch(records: Iterable[Record]) -> list[Record]:
    """Return the records that fit into one call, at least one; a record is never torn, so that it arrives whole."""
    batch: list[Record] = []
    room = _MAX_METRICS
    for record in records:
        room -= len(record.values) + 1
        if room < 0 and batch:
            break
        batch.append(record)
    return batch


def record_metrics(record: Record) -> list[Metric]:
    """Return the points of one record, `<kind>/<key>` each; `<kind>/step` tells a later start what was the last."""
    at_ms = int(record.time * 1000)
    values = {**record.values, "step": float(record.step)}
    return [Metric(allowed_key(f"{record.kind}/{key}"), value, at_ms, record.step) for key, value in values.items()]


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings as `section.key` to text, cut to what MLflow holds, with secrets hidden."""
    flat: dict[str, str] = {}
    for key, value in params.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{name}."))
            continue
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        flat[allowed_key(name)] = (
            HIDDEN if is_secret_key(name) and value is not None else redact(text)[:_MAX_VALUE_CHARS]
        )
    return flat


def allowed_key(name: str) -> str:
    """Return `name` with only the characters that MLflow allows, and no longer than it allows."""
    return re.sub(r"[^\w.\- :/]", "_", name)[:_MAX_KEY_CHARS]
