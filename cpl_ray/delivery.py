"""Sending MLflow, after the fact, what it has not got of a run."""

from pathlib import Path

from cpl_ray.config import Config
from cpl_ray.errors import TrackingError
from cpl_ray.mlflow_client import TrackedRun
from cpl_ray.tracking import Tracker
from cpl_ray.tracking_uri import redact, required_uri


def deliver(config: Config, run_dir: Path, *, timeout_s: float = 60.0) -> TrackedRun:
    """Make sure that MLflow has this run with its settings and every metric record; if it has ended, so it stays.

    Raises:
        TrackingError: MLflow cannot be reached, or not all could be sent within `timeout_s` seconds.
        ConfigError: tracking is off, or the tracking URI is not usable.
    """
    uri = required_uri(config, run_dir.parent)
    tracker = Tracker(config, run_dir, uri, resume=True, late=True)
    tracker.read(run_dir / "metrics.jsonl")
    tracker.log_params(config.model_dump(mode="json"))
    done = tracker.lost is None and tracker.flush(timeout_s)
    if tracker.run is None or tracker.lost is not None:
        raise TrackingError(f"MLflow at {redact(uri)} cannot be reached ({tracker.lost}); start it or set tracking.uri")
    tracker.finish()
    if not done:
        raise TrackingError(f"MLflow at {redact(uri)} took only part of the run within {timeout_s:g} s; try again")
    return tracker.run
