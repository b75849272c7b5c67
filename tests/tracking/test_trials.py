"""The MLflow runs of a sweep's trials: a driver that is killed while it closes one leaves nothing open for good."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from cpl_ray.config import Config
from cpl_ray.mlflow_client import TrackedRun, running_children
from cpl_ray.sweep_book import SweepBook
from cpl_ray.tracking import Tracker
from cpl_ray.trials import Trial
from pipelines.sweep_watch import SweepWatch
from pipelines.voice import Voice

ROOT = Path(__file__).resolve().parents[2]
DRIVER = """
import os, sys
from pathlib import Path
from mlflow import MlflowClient
from tests.tracking.test_trials import drive
drive(Path(sys.argv[1]))
"""
KILLED = "setattr(MlflowClient, {0!r}, lambda *_, **__: os.kill(os.getpid(), 9))"


def job(folder: Path) -> Config:
    settings = {"search": {"space": {"optimizer.lr": [1e-5, 1e-4]}}, "run": {"dir": str(folder), "name": "sweep"}}
    return Config.model_validate({"model": "m", "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"}, **settings})


def measure(book: SweepBook, trial: Trial) -> None:
    """Leave what a trial leaves in its folder."""
    folder, rate = book.run_folder(trial), {"count": 3, "of": 4, "share": 0.75}
    result: dict[str, Any] = {
        "learned": rate,
        "learned_held_out": None,
        "steps": 2,
        "mastered_size": 4,
        "mastered_sha256": "0" * 64,
    }
    result |= {"forgotten": dict.fromkeys(("held_out", "validation", "in_set"), rate)}
    result |= {"collaborative_share": 0.5, "moved_against": 0}
    records = [{"kind": "train", "step": step, "time": step, "loss": 1.0} for step in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "manifest.json").write_text(
        json.dumps({"parts": {"injection": {"file": "i", "rows": 4, "sha256": "1" * 64}}})
    )
    (folder / "result.json").write_text(json.dumps(result))


def drive(folder: Path, *, resume: bool = False) -> None:
    """Do the trials that have not ended, as the driver of a sweep does."""
    config = job(folder)
    parent = Tracker.open(config, folder / "sweep", resume=resume)
    book = SweepBook(folder / "sweep", config, concurrency=1, resume=resume)
    with SweepWatch(book, parent, Voice(quiet=True), 1) as watch:
        while (trial := book.next()) is not None:
            watch.started(trial)
            measure(book, trial)
            watch.ended(book.ended(trial.index, 1.0))
    parent.finish()


@pytest.mark.parametrize("where", ["log_inputs", "log_artifact", "set_terminated"])
def test_a_run_that_a_killed_driver_was_closing_is_closed_by_the_next(
    tmp_path: Path, empty_store: Path, where: str
) -> None:
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    (tmp_path / "sweep").mkdir()
    script = DRIVER.replace("drive(Path", KILLED.format(where) + "\ndrive(Path")
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    uri = job(tmp_path).tracking.uri
    assert uri is not None
    book = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert [trial["state"] for trial in book["trials"]] == ["finished", "pending"]
    parent = TrackedRun.load(tmp_path / "sweep", uri)
    child = TrackedRun.load(tmp_path / "sweep" / "trials" / "000", uri)
    assert parent is not None
    assert child is not None
    assert running_children(parent) == {child.run_id}

    drive(tmp_path, resume=True)
    client = MlflowClient(uri)
    assert running_children(parent) == set()
    found = client.search_runs([parent.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.run_id}'")
    assert {run.info.run_name: run.info.status for run in found} == {"000": "FINISHED", "001": "FINISHED"}
    run = client.get_run(child.run_id)
    assert run.data.metrics["final/learned"] == 3
    assert [point.step for point in client.get_metric_history(child.run_id, "train/loss")] == [1, 2]
    assert "result.json" in {file.path for file in client.list_artifacts(child.run_id)}
    assert run.inputs is not None
    assert [given.dataset.name for given in run.inputs.dataset_inputs] == ["injection"]

    drive(tmp_path, resume=True)  # what is closed is left alone
    assert client.get_run(child.run_id).info.end_time == run.info.end_time


def test_a_run_that_was_never_made_is_made_by_the_next(tmp_path: Path, empty_store: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    (tmp_path / "sweep").mkdir()
    drive(tmp_path)
    (tmp_path / "sweep" / "trials" / "001" / "tracking.json").unlink()
    drive(tmp_path, resume=True)
    child = TrackedRun.load(tmp_path / "sweep" / "trials" / "001", str(job(tmp_path).tracking.uri))
    assert child is not None
    run = MlflowClient(child.uri).get_run(child.run_id)
    assert (run.info.status, run.data.metrics["final/learned"]) == ("FINISHED", 3)
