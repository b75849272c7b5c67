"""Tracking a run in MLflow, from the driver process alone, in a way that can never stop the training.

Workers append to `<run>/metrics.jsonl`; a daemon thread here follows that file and sends what is new in batches. The
file is the truth and MLflow a copy: whatever a dead server missed is sent later, by the thread, by a resumed run or by
`delivery.py`. No global MLflow state (active run, tracking URI) is touched.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, ErrorCode

from cpl_ray import mlflow_entries as entries
from cpl_ray.config import Config
from cpl_ray.errors import UserError
from cpl_ray.metrics_log import Record, Tail
from cpl_ray.mlflow_client import PARENT_TAG, REQUEST_TIMEOUT_S, TrackedRun, connect, enter_run, limited_http, reason_of
from cpl_ray.tracking_uri import default_uri, redact

Status = Literal["FINISHED", "FAILED", "KILLED"]

_log = logging.getLogger(__name__)
_MAX_BACKOFF_S = 30.0


class Tracker:
    """The MLflow side of one run. No method raises because of MLflow; what could not be sent is kept and sent later.

    Made by `open`. With `tracking.enabled` false every method does nothing.
    """

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        uri: str | None,
        *,
        resume: bool,
        late: bool = False,
        parent: "Tracker | None" = None,
    ) -> None:
        """Prepare a tracker that has reached nothing yet; see `open`. `late`: it only delivers, see `delivery.py`."""
        self._parent = parent
        self._config = config
        self._run_dir = run_dir
        self._uri = uri
        self._resume = resume
        self._late = late
        self._client: MlflowClient | None = None
        self._run: TrackedRun | None = None
        self._entries: deque[entries.Entry] = deque()
        self._records: deque[Record] = deque()
        self._seen: dict[str, int] = {}
        self._rejected = 0
        self._synced = False
        self._lost: str | None = None
        self._warned = False
        self._retry_at, self._backoff_s, self._poll_s = 0.0, 1.0, 1.0
        self._tail: Tail | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._lock = threading.RLock()

    @classmethod
    def open(cls, config: Config, run_dir: Path, *, resume: bool, parent: "Tracker | None" = None) -> "Tracker":
        """Reach MLflow, make database, experiment and run where they are missing, and save `<run>/tracking.json`.

        Args:
            config: the run.
            run_dir: the run folder; its parent holds the default database.
            resume: continue the MLflow run of this folder, if it has one; else start a new one.
            parent: the tracker of the run that this one belongs to, e.g. of its sweep.

        Returns:
            A tracker; one that could not reach MLflow has warned once and keeps trying.

        Raises:
            ConfigError: the tracking URI is not usable at all (see `default_uri`).
        """
        uri = default_uri(config, run_dir.parent) if config.tracking.enabled else None
        tracker = cls(config, run_dir, uri, resume=resume, parent=parent)
        tracker._deliver(force=True)
        return tracker

    @property
    def run(self) -> TrackedRun | None:
        """The MLflow run; None while none could be made, or with tracking off."""
        return self._run

    @property
    def lost(self) -> str | None:
        """Why MLflow cannot be reached at the moment, in one line; None while all is well."""
        return self._lost

    @property
    def missing(self) -> int:
        """How many metric records and other entries (parameters, datasets, files) have not reached MLflow."""
        return len(self._records) + len(self._entries) + self._rejected

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log settings, nested ones as `section.key`, secrets hidden; a value changed on resume becomes a tag."""
        self._add(entries.params_entry(params))

    def log_datasets(self, manifest: Mapping[str, Any], run_dir: Path) -> None:
        """Log each part named in the manifest of the assessment in `run_dir`, with its sha256; context = part."""
        self._add(entries.datasets_entry(manifest, run_dir))

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self._add(entries.tags_entry(tags))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log final numbers at `step`."""
        self._add(entries.metrics_entry(metrics, step))

    def log_artifacts(self, path: Path) -> None:
        """Upload a folder or a file; one that does not exist is left out."""
        if path.exists():
            self._add(entries.artifacts_entry(path))

    def read(self, metrics_path: Path) -> None:
        """Take the records of `metrics_path` as they are, whenever something is sent."""
        self._tail = Tail(metrics_path)

    def follow(self, metrics_path: Path, *, poll_s: float = 1.0) -> None:
        """Start a daemon thread that sends every record of `metrics_path` that MLflow does not have yet.

        Args:
            metrics_path: the file that the workers write; it may not exist yet, and may be replaced on resume.
            poll_s: seconds between looks at it.
        """
        if self._uri is None:
            return
        with self._lock:
            self._tail, self._poll_s = Tail(metrics_path), poll_s
            if self._thread is None:
                self._thread = threading.Thread(target=self._follow, name="cpl-tracking", daemon=True)
                self._thread.start()

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Send what is known now, trying for up to `timeout_s` seconds. Returns True when nothing is missing."""
        deadline = time.monotonic() + timeout_s
        while not self._deliver(force=True, wait_s=timeout_s):
            if time.monotonic() >= deadline:
                return False
            time.sleep(min(1.0, max(0.0, deadline - time.monotonic())))
        return self.missing == 0

    def finish(self, status: Status = "FINISHED", *, timeout_s: float = 5.0) -> None:
        """Send the rest, stop following, close the MLflow run, and say how much is missing if anything is."""
        if self._uri is None:
            return
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
        if self.flush(timeout_s) or self._lost is None:
            self._add(entries.closing_entry(status, only_running=self._late))
        if self.missing and not self._late:
            _log.warning(
                f"MLflow at {redact(self._uri)} lacks {self.missing} entries of this run ({self._rejected} refused); "
                f"the numbers are in {self._run_dir / 'metrics.jsonl'}; `cpl register` or run.resume=true sends them"
            )

    def _add(self, entry: entries.Entry) -> None:
        if self._uri is None:
            return
        with self._lock:
            self._entries.append(entry)
        if self._lost is None:
            self._deliver()

    def _follow(self) -> None:
        while not self._stop.wait(self._poll_s):
            self._deliver()

    def _deliver(self, *, force: bool = False, wait_s: float = -1.0) -> bool:
        """Send everything that waits; True when nothing is left.

        Args:
            force: also when a failure lies less than the pause between tries behind us.
            wait_s: longest wait for another thread that is sending; -1: no limit.
        """
        if self._uri is None:
            return True
        if not self._lock.acquire(timeout=wait_s):
            return False
        try:
            self._read()
            if self._client is not None and self._synced and not self._records and not self._entries:
                return True
            if not force and time.monotonic() < self._retry_at:
                return False
            self._send_all(self._uri)
        # MLflow, SQLAlchemy, requests, artifact stores: whatever they raise must not stop a training run.
        except Exception as error:
            self._lose(error)
            return False
        finally:
            self._lock.release()
        return True

    def _read(self) -> None:
        """Queue new records; a step queued or sent before is a replay after a restart and is left out."""
        for record in self._tail.poll() if self._tail is not None else ():
            if record.step > self._seen.get(record.kind, -1):
                self._seen[record.kind] = record.step
                self._records.append(record)

    def _send_all(self, uri: str) -> None:
        with limited_http():
            client, run = self._reach(uri)
        while self._entries:
            self._send_entry(client, run.run_id, self._entries[0])
            self._entries.popleft()
        while self._records:
            batch = entries.first_batch(self._records)
            with limited_http():
                self._send_records(client, run.run_id, batch)
            for _ in batch:
                self._records.popleft()
        if self._lost is not None:
            _log.info(f"MLflow at {redact(uri)} answers again; everything missing was sent")
        self._lost, self._backoff_s, self._retry_at = None, 1.0, 0.0

    def _reach(self, uri: str) -> tuple[MlflowClient, TrackedRun]:
        """Return client and run; after a start or a failure first learn what MLflow has of the run already."""
        client = self._client = self._client or connect(uri)
        if self._run is None:
            tags = self._family()
            self._run = enter_run(
                client, self._config, self._run_dir, uri, resume=self._resume, reopen=not self._late, tags=tags
            )
            self._run.save(self._run_dir)
        if not self._synced:
            # A request that failed here may have arrived there: `<kind>/step` is logged with every record, so its
            # latest value is the highest step that was.
            known = client.get_run(self._run.run_id).data.metrics
            top = {key.removesuffix("/step"): int(value) for key, value in known.items() if key.endswith("/step")}
            self._records = deque(record for record in self._records if record.step > top.get(record.kind, -1))
            for kind, step in top.items():
                self._seen[kind] = max(step, self._seen.get(kind, -1))
            self._synced = True
        return client, self._run

    def _family(self) -> dict[str, str]:
        """Return the tag that names the parent run, which has to be there first."""
        if self._parent is None:
            return {}
        if self._parent.run is None and not self._parent._deliver(force=True, wait_s=1.0):
            raise UserError(f"the run of the sweep is not in MLflow yet ({self._parent.lost})")
        return {PARENT_TAG: self._parent.run.run_id} if self._parent.run is not None else {}

    def _send_entry(self, client: MlflowClient, run_id: str, entry: entries.Entry) -> None:
        if entry.timeout_s > REQUEST_TIMEOUT_S:
            with limited_http():  # a server that is gone shall not cost the patience that an upload needs
                client.get_run(run_id)
        try:
            with limited_http(entry.timeout_s):
                entry.send(client, run_id)
        except MlflowException as error:
            self._refused(error)

    def _send_records(self, client: MlflowClient, run_id: str, records: Sequence[Record]) -> None:
        """Send records in one call, or one by one where MLflow refuses some of them for good."""
        try:
            client.log_batch(run_id, [metric for record in records for metric in entries.record_metrics(record)])
        except MlflowException as error:
            if len(records) > 1 and error.error_code == ErrorCode.Name(INVALID_PARAMETER_VALUE):
                for record in records:
                    self._send_records(client, run_id, [record])
            else:
                self._refused(error)

    def _refused(self, error: MlflowException) -> None:
        """Count and drop what MLflow refuses for good, or it would block everything behind it; else raise."""
        if error.error_code != ErrorCode.Name(INVALID_PARAMETER_VALUE):
            raise error
        if not self._rejected:
            _log.warning(f"MLflow refused a part of this run: {reason_of(error)}")
        self._rejected += 1

    def _lose(self, error: Exception) -> None:
        self._synced = False
        self._lost = reason_of(error)
        self._retry_at = time.monotonic() + self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, _MAX_BACKOFF_S)
        if not self._warned and not self._late:
            self._warned = True
            _log.warning(
                f"MLflow at {redact(str(self._uri))} cannot be reached ({self._lost}); the run goes on, its numbers are"
                f" kept in {self._run_dir / 'metrics.jsonl'} and are sent when MLflow answers again"
            )
