"""Reaching an MLflow store in bounded time, and the run of a run folder in it."""

import fcntl
import json
import logging
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import RunStatus, ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST, ErrorCode

from cpl_ray import __version__
from cpl_ray.atomic import atomic_write_text
from cpl_ray.config import Config
from cpl_ray.errors import TrackingError, UserError
from cpl_ray.tracking_uri import artifact_location, redact, sqlite_path

REQUEST_TIMEOUT_S = 10
UPLOAD_TIMEOUT_S = 600
PARENT_TAG = "mlflow.parentRunId"
_SOURCE = "cpl-ray"
_FILE = "tracking.json"
_MAX_REASON_CHARS = 200
_ADVICE = "(raised as a result of"  # SQLAlchemy's, to its callers, before the reason
_TALKATIVE = {
    "alembic": logging.WARNING,
    "mlflow.store.db.utils": logging.CRITICAL,  # logs a traceback of what it raises as well
    "mlflow.store.model_registry.abstract_store": logging.WARNING,
}
_SYSTEM_ERROR = re.compile(
    r"""\[Errno -?\d+\] ([^'")\]]+)|Error\(\d+, ['"]([^'"]+)"""
    r"|(timed out|Remote end closed connection|too many \d+ error responses)"
)
_ENVIRONMENT = threading.RLock()


@dataclass(frozen=True)
class TrackedRun:
    """The MLflow run of a run folder."""

    uri: str
    """Tracking URI, as MLflow needs it; may hold a password, so never shown or saved as it is."""
    experiment_id: str
    run_id: str

    def save(self, run_dir: Path) -> None:
        """Write `<run>/tracking.json`, without the secrets of the URI."""
        content = {"uri": redact(self.uri), "experiment_id": self.experiment_id, "run_id": self.run_id}
        atomic_write_text(run_dir / _FILE, json.dumps(content, indent=2) + "\n")

    @classmethod
    def load(cls, run_dir: Path, uri: str) -> "TrackedRun | None":
        """Read `<run>/tracking.json`; None where there is none or it is damaged.

        Args:
            run_dir: the run folder.
            uri: the tracking URI in force, since the saved one has lost its password.
        """
        try:
            content = json.loads((run_dir / _FILE).read_text("utf-8"))
            return cls(uri, str(content["experiment_id"]), str(content["run_id"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


@contextmanager
def limited_http(timeout_s: int = REQUEST_TIMEOUT_S) -> Iterator[None]:
    """Bound every HTTP request of MLflow inside the block: `timeout_s` seconds each, no hidden retries, no chatter.

    MLflow's own defaults keep a caller of a dead server waiting for minutes. They can only be changed by environment
    variables; those that the user has set stay in force. Not to be nested.
    """
    limits = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout_s),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    with _ENVIRONMENT:
        ours = {key: value for key, value in limits.items() if key not in os.environ}
        os.environ.update(ours)
        try:
            yield
        finally:
            for key in ours:
                os.environ.pop(key, None)


@contextmanager
def store_lock(uri: str, purpose: str) -> Iterator[bool]:
    """Hold a lock file beside an SQLite store, so that only one process at a time does what `purpose` names.

    Yields:
        True where the lock is held; False for stores that other machines share, which cannot be locked from here.
    """
    database = sqlite_path(uri)
    if database is None:
        yield False
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with open(database.with_name(f".{database.name}.{purpose}.lock"), "w", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield True  # closing the file releases the lock, as does the death of the process


def connect(uri: str) -> MlflowClient:
    """Return a client whose store is open; a new SQLite file gets its tables here, from one process at a time.

    Raises:
        Exception: whatever MLflow, SQLAlchemy or requests raise for a store that cannot be reached.
    """
    for name, level in _TALKATIVE.items():
        logging.getLogger(name).setLevel(level)
    database = sqlite_path(uri)
    with store_lock(uri, "create"):
        if database is not None and not database.exists():
            _create(database)
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(view_type=ViewType.ACTIVE_ONLY, max_results=1)
    return client


def _create(database: Path) -> None:
    """Make an SQLite store, whole or not at all: one that MLflow was killed in making can never be opened again."""
    from mlflow.store.db.utils import _initialize_tables as initialize_tables  # servers' users need none of it

    # what killed processes have left: nobody else is here, thanks to the lock
    for left in database.parent.glob(f".{database.name}.part-*"):
        left.unlink()
    part = database.with_name(f".{database.name}.part-{os.getpid()}")
    engine = sqlalchemy.create_engine(sqlalchemy.URL.create("sqlite", database=str(part)))
    try:
        initialize_tables(engine)
    finally:
        engine.dispose()
    with open(part, "rb") as stream:
        os.fsync(stream.fileno())
    part.rename(database)


def open_store(uri: str) -> MlflowClient:
    """Return `connect(uri)`, with requests bounded."""
    with limited_http():
        return connect(uri)


@contextmanager
def understood(uri: str) -> Iterator[None]:
    """Turn whatever MLflow and its stores raise into one clear sentence."""
    try:
        yield
    except UserError:
        raise
    # MLflow, SQLAlchemy, requests and artifact stores share no base class
    except Exception as error:
        raise TrackingError(f"MLflow at {redact(uri)} cannot be reached or refuses: {reason_of(error)}") from error


def enter_run(
    client: MlflowClient,
    config: Config,
    run_dir: Path,
    uri: str,
    *,
    resume: bool,
    reopen: bool = True,
    tags: Mapping[str, str] | None = None,
) -> TrackedRun:
    """Return the MLflow run of this run folder: the one it had when `resume`, else a new one.

    A run that has ended is set running again if `reopen`. A run that the store does not know any more, or that was
    deleted there, is replaced by a new one, which gets `tags` besides its own.
    """
    known = TrackedRun.load(run_dir, uri) if resume else None
    if known is not None:
        try:
            run = client.get_run(known.run_id)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                raise
        else:
            if run.info.lifecycle_stage == "active":
                if reopen and run.info.status != RunStatus.to_string(RunStatus.RUNNING):
                    client.update_run(known.run_id, status=RunStatus.to_string(RunStatus.RUNNING))
                return TrackedRun(uri, run.info.experiment_id, known.run_id)
    experiment_id = _experiment(client, config.tracking.experiment, artifact_location(uri, run_dir.parent))
    source = {"mlflow.source.name": _SOURCE, "mlflow.source.type": "LOCAL", "cpl_ray.version": __version__}
    run = client.create_run(experiment_id, run_name=run_dir.name, tags={**source, **(tags or {})})
    return TrackedRun(uri, experiment_id, run.info.run_id)


def _experiment(client: MlflowClient, name: str, location: str | None) -> str:
    """Return the id of the experiment, made if there is none.

    Raises:
        UserError: it was deleted and is in MLflow's bin.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException as error:  # another driver was faster
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise
            experiment = client.get_experiment_by_name(name)
    if experiment is None or experiment.lifecycle_stage != "active":
        raise UserError(
            f"tracking.experiment: {name!r} was deleted in MLflow; restore it there or name another experiment"
        )
    return str(experiment.experiment_id)


def running_runs(uri: str, experiment_ids: Iterable[str]) -> dict[str, str | None]:
    """Return the ids of cpl-ray's runs in some experiments that nobody has closed, with those of their parents.

    Raises:
        TrackingError: the store cannot be reached.
    """
    wanted = f"attributes.status = 'RUNNING' and tags.`mlflow.source.name` = '{_SOURCE}'"
    found: dict[str, str | None] = {}
    with understood(uri):
        client, token = open_store(uri), None
        while True:
            with limited_http():
                page = client.search_runs([*experiment_ids], wanted, page_token=token)
            found |= {run.info.run_id: run.data.tags.get(PARENT_TAG) for run in page}
            token = page.token
            if not token:
                return found


def abandon(uri: str, run_ids: Iterable[str]) -> None:
    """Close runs whose makers were killed before they could note which runs they had made.

    Raises:
        TrackingError: the store cannot be reached.
    """
    with understood(uri):
        client = open_store(uri)
        with limited_http():
            for run_id in run_ids:
                client.set_terminated(run_id, RunStatus.to_string(RunStatus.KILLED))


def version_of(client: MlflowClient, name: str, alias: str) -> str | None:
    """Return the version behind an alias; None where nothing is, or there is no such model."""
    try:
        version = client.get_registered_model(name).aliases.get(alias)
    except MlflowException as error:
        if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            return None
        raise
    return None if version is None else str(version)  # an int from a database, a string from a server


def reason_of(error: BaseException) -> str:
    """Return why something failed, for a message: what the system said about the connection, else the first line."""
    lines = [line for line in redact(str(error)).splitlines() if not line.startswith(_ADVICE)]
    text = "\n".join(lines).strip() or type(error).__name__
    said = _SYSTEM_ERROR.search(text) if "API request to" in text else None
    line = next(filter(None, said.groups())).strip() if said else text.splitlines()[0]
    return line if len(line) <= _MAX_REASON_CHARS else line[:_MAX_REASON_CHARS] + "…"
