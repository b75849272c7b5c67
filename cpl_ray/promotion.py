"""Who is champion: the gate's verdict moves the alias `champion`, or does not; `rollback` moves it back.

Two promotions at once: the alias is read when judging begins and again right before it is written. If it has moved in
between, the judgement was made against a champion that is none any more, and nothing is written. On an SQLite store the
second look and the writing are one step for all processes (a lock file). A server knows no such step; what is left open
there is told in docs/gate.md.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import mlflow.artifacts
import yaml
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from cpl_ray.atomic import atomic_write_text
from cpl_ray.config import Config
from cpl_ray.digest import model_digest
from cpl_ray.errors import DataError, UserError
from cpl_ray.evidence import Evidence
from cpl_ray.gate import GateVerdict, judge
from cpl_ray.mlflow_client import (
    UPLOAD_TIMEOUT_S,
    limited_http,
    open_store,
    reason_of,
    store_lock,
    understood,
    version_of,
)
from cpl_ray.rundir import read_json
from cpl_ray.tracking_uri import required_uri, sqlite_path

CHAMPION = "champion"
REPLACED = "replaced_champion"
"""Tag of a champion: the version that it replaced."""
_HF_MODEL = "hf_model"  # the name of the Hugging Face folder in the pyfunc, see qa_model.py
_LOCK = "promote"
_MAX_TAG_CHARS = 4000


@dataclass(frozen=True)
class Challenge:
    """A registered model before the gate, and whom it has to beat."""

    uri: str
    name: str
    version: str
    model_digest: str
    champion: str | None
    """Version of the present champion; None: there is none."""
    rival: ModelVersion | None
    """The champion, where it is another model; None: there is none, or it is this very model."""


@dataclass(frozen=True)
class RolledBack:
    """What `rollback` did."""

    name: str
    version: str
    """Champion again."""
    instead_of: str
    """Champion until now."""


def promote(config: Config, run_dir: Path, measure: Callable[[Challenge], Evidence] | None = None) -> GateVerdict:
    """Judge the registered model of a run, and give it the alias `champion` if the gate admits it.

    Refused: no alias moves. Either way tags and description of the version say why, and the verdict is kept in
    `<run>/result.json` under `gate`.

    Args:
        config: the run.
        run_dir: its folder.
        measure: asks candidate and champion again; None: result.json alone is judged.

    Raises:
        UserError: the run is not evaluated or registered, its model has changed since, MLflow cannot be reached, or
            another promotion moved the alias meanwhile; nothing was moved or written then.
        ConfigError: tracking is off.
    """
    uri = required_uri(config, run_dir.parent)
    result, registered = _records(run_dir)
    name, version = str(registered["name"]), str(registered["version"])
    with understood(uri):
        client = open_store(uri)
        with limited_http():
            champion = version_of(client, name, CHAMPION)
            rival = None if champion in (None, version) else client.get_model_version(name, str(champion))
    if rival is not None and rival.tags.get("model_digest") == registered["model_digest"]:
        rival = None
    challenge = Challenge(uri, name, version, registered["model_digest"], champion, rival)
    evidence = Evidence() if measure is None else measure(challenge)
    verdict = judge(result, config.budget, evidence.comparison, evidence.noise)
    with understood(uri), store_lock(uri, _LOCK), limited_http():
        now = version_of(client, name, CHAMPION)
        if now != champion and (verdict.admitted or verdict.worse_than_champion):
            raise UserError(
                f"{_called(now)} of {name!r} became champion while version {version} was being judged against "
                f"{_called(champion)}; nothing was moved, promote again to be judged against the new one"
            )
        if verdict.admitted:
            _crown(client, name, version, now)
        for key, value in _tags(verdict).items():
            client.set_model_version_tag(name, version, key, value[:_MAX_TAG_CHARS])
        about = "; ".join([verdict.summary(), *verdict.details(), *verdict.warnings])
        client.update_model_version(name, version, f"{run_dir.name}, {about}"[:_MAX_TAG_CHARS])
    result["gate"] = {**verdict.to_dict(), "name": name, "version": version}
    atomic_write_text(run_dir / "result.json", json.dumps(result, indent=2) + "\n")
    return verdict


def rollback(config: Config, run_root: Path) -> RolledBack:
    """Make the version champion again that the present champion replaced.

    Both versions get the tag `rolled_back` with the time (UTC). The tag `replaced_champion` of the present champion
    is taken away, so that a second rollback goes one promotion further back instead of to and fro.

    Args:
        config: names the store and the registered model.
        run_root: folder of all runs (`run.dir`), where the default store lies.

    Raises:
        UserError: there is no store, model, champion or earlier champion, or MLflow cannot be reached; nothing moved.
        ConfigError: tracking is off or `tracking.uri` is not usable.
    """
    uri, name = required_uri(config, run_root), config.tracking.model_name
    database = sqlite_path(uri)
    if database is not None and not database.is_file():
        raise UserError(f"there is no MLflow store {database}; set run.dir or tracking.uri")
    with understood(uri):
        client = open_store(uri)
        with store_lock(uri, _LOCK), limited_http():
            present = version_of(client, name, CHAMPION)
            if present is None:
                raise UserError(f"no version of {name!r} is champion; there is nothing to roll back")
            earlier = client.get_model_version(name, present).tags.get(REPLACED)
            if not earlier:
                raise UserError(f"version {present} of {name!r} replaced no champion; there is nothing to go back to")
            if _version(client, name, earlier) is None:
                raise UserError(
                    f"version {earlier} of {name!r}, which version {present} replaced, has been deleted; nothing moved"
                )
            set_champion(client, name, earlier, present)
            time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            client.delete_model_version_tag(name, present, REPLACED)
            for version, key, value in ((present, "rolled_back_to", earlier), (earlier, "rolled_back_from", present)):
                client.set_model_version_tag(name, version, "rolled_back", time)
                client.set_model_version_tag(name, version, key, value)
    return RolledBack(name, earlier, present)


@contextmanager
def rival_folder(challenge: Challenge, within: Path) -> Iterator[Path | None]:
    """Hold the champion's Hugging Face folder: where it lies, or a copy in `within` that is removed afterwards.

    Yields:
        None where there is no other champion.

    Raises:
        UserError: the champion's model cannot be had, or is not what was registered.
    """
    rival = challenge.rival
    if rival is None:
        yield None
        return
    # in the run folder: every node sees it, and there is room for a model
    with tempfile.TemporaryDirectory(dir=within, prefix=".champion.part-") as part:
        try:
            with limited_http(UPLOAD_TIMEOUT_S):
                folder = _hf_folder(str(rival.source), challenge.uri, part)
            if rival.tags.get("model_digest") not in (None, model_digest(folder)):
                raise ValueError("its files are not those that were registered")
        # artifact stores share no base class; whatever they raise, the champion cannot be asked
        except Exception as error:
            raise UserError(
                f"the champion, version {rival.version} of {challenge.name!r}, cannot be loaded: {reason_of(error)}; "
                "nothing was moved (budget.rescore=false judges without asking it)"
            ) from error
        yield folder


def _records(run_dir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return result.json and registered.json of a run, after making sure that both are about its present model."""
    for file, verb in (("result.json", "evaluate"), ("registered.json", "register")):
        if not (run_dir / file).is_file():
            raise UserError(f"the run {run_dir.name} has no {file}; run `cpl {verb}` first")
    result, registered = read_json(run_dir / "result.json"), read_json(run_dir / "registered.json")
    if absent := [key for key in ("name", "version", "model_digest") if key not in registered]:
        raise DataError(f"{run_dir / 'registered.json'} has no {absent[0]!r}; run `cpl register` again")
    if (run_dir / "model").is_dir() and model_digest(run_dir / "model") != registered["model_digest"]:
        raise UserError(f"the model of {run_dir.name} is not the one that was registered; run `cpl register` again")
    if result.get("model_digest") != registered["model_digest"]:
        raise UserError(
            f"result.json of {run_dir.name} does not belong to the registered model (another or no model_digest); "
            "run `cpl evaluate` again"
        )
    return result, registered


def _crown(client: MlflowClient, name: str, version: str, before: str | None) -> None:
    set_champion(client, name, version, before)
    if before == version:
        return
    if before is not None:
        client.set_model_version_tag(name, version, REPLACED, before)
    elif REPLACED in client.get_model_version(name, version).tags:
        client.delete_model_version_tag(name, version, REPLACED)


def set_champion(client: MlflowClient, name: str, version: str, before: str | None = None) -> None:
    """Move the alias, and look whether it stayed: on a server another client may have written at the same moment.

    Args:
        client: of the registry.
        name: registered model.
        version: shall be champion.
        before: is champion; None: nobody.
    """
    refused: MlflowException | None = None
    try:
        client.set_registered_model_alias(name, CHAMPION, version)
    except MlflowException as error:
        refused = error
    after = version_of(client, name, CHAMPION)
    if refused is not None and after in (None, before):
        raise refused
    if after != version:  # also where two make the first champion at once, which MLflow refuses the second
        raise UserError(
            f"another promotion made {_called(after)} of {name!r} champion at the moment when version {version} was "
            "to be; promote again if this one shall be it"
        ) from refused


def _version(client: MlflowClient, name: str, version: str) -> ModelVersion | None:
    try:
        return client.get_model_version(name, version)
    except MlflowException as error:
        if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            return None
        raise


def _hf_folder(source: str, uri: str, part: str) -> Path:
    """Return the Hugging Face folder inside a version's artifacts: in place where they are local, else downloaded."""
    address = urlparse(source)
    local = Path(unquote(address.path)) if address.scheme in ("", "file") else None

    def fetch(path: str) -> Path:
        if local is not None:
            return local / path
        return Path(mlflow.artifacts.download_artifacts(f"{source}/{path}", dst_path=part, tracking_uri=uri))

    about = yaml.safe_load(fetch("MLmodel").read_text("utf-8"))
    artifacts = about.get("flavors", {}).get("python_function", {}).get("artifacts") or {}
    if _HF_MODEL not in artifacts:
        raise ValueError(f"it holds no artifact {_HF_MODEL!r}: it was not registered by cpl-ray")
    folder = fetch(artifacts[_HF_MODEL]["path"])
    if not (folder / "config.json").is_file():
        raise ValueError(f"its artifact {_HF_MODEL!r} holds no model")
    return folder


def _tags(verdict: GateVerdict) -> dict[str, str]:
    """Return the verdict and its numbers as tags of the version."""
    return {
        "gate": "admitted" if verdict.admitted else "refused",
        "gate_reasons": "; ".join(verdict.reasons),
        "gate_warnings": "; ".join(verdict.warnings),
        "gate_close_call": str(verdict.close_call).lower(),
        "gate_numbers": json.dumps(verdict.numbers),
    }


def _called(version: str | None) -> str:
    return "no version" if version is None else f"version {version}"
