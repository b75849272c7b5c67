"""The MLflow runs of a sweep's trials: a driver that is killed while it closes one leaves nothing open for good."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from cpl_ray.config import Config
from cpl_ray.mlflow_client import TrackedRun, running_runs
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
from cpl_ray.mlflow_client import TrackedRun
from cpl_ray.tracking import Tracker
from tests.tracking.test_trials import drive
save = TrackedRun.save
def die(*given, **named):
    os.kill(os.getpid(), 9)
"""


def job(folder: Path, *, resume: bool, experiment: str = "cpl-ray") -> Config:
    tracking = {"uri": f"sqlite:///{folder}/mlflow.db", "experiment": experiment}
    run = {"dir": str(folder), "name": "sweep", "resume": resume}
    space = {"optimizer.lr": [1e-5, 1e-4]}
    return Config.model_validate({"model": "m", "tracking": tracking, "search": {"space": space}, "run": run})


def measure(book: SweepBook, trial: Trial) -> None:
    """Leave what a measured trial leaves in its folder."""
    folder, rate = book.run_folder(trial), {"count": 3, "of": 4, "share": 0.75}
    result: dict[str, Any] = {"learned": rate, "learned_held_out": None, "steps": 2}
    result |= {"mastered_size": 4, "mastered_sha256": "0" * 64, "collaborative_share": 0.5, "moved_against": 0}
    result |= {"forgotten": dict.fromkeys(("held_out", "validation", "in_set"), rate)}
    injection = {"file": "i", "rows": 4, "sha256": "1" * 64}
    (folder / "manifest.json").write_text(json.dumps({"parts": {"injection": injection}}))
    (folder / "result.json").write_text(json.dumps(result))


def drive(folder: Path, *, resume: bool = False, experiment: str = "cpl-ray", stopped: bool = False) -> None:
    """Do the trials that have not ended, as the driver of a sweep does."""
    config = job(folder, resume=resume, experiment=experiment)
    parent = Tracker.open(config, folder / "sweep", resume=resume)
    book = SweepBook(folder / "sweep", config, concurrency=1, resume=resume)
    with SweepWatch(book, parent, Voice(quiet=True), 1) as watch:
        watch.catch_up()
        while (trial := book.next()) is not None:
            watch.started(trial)
            records = [{"kind": "train", "step": step, "time": step, "loss": 1.0} for step in (1, 2)]
            text = "".join(json.dumps(record) + "\n" for record in records)
            (book.run_folder(trial) / "metrics.jsonl").write_text(text)
            if not stopped:
                measure(book, trial)
            watch.ended(book.ended(trial.index, 1.0))
    parent.finish()


@pytest.fixture
def folder(tmp_path: Path, empty_store: Path) -> Path:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    (tmp_path / "sweep").mkdir()
    return tmp_path


def killed(folder: Path, how: str, arguments: str = "") -> TrackedRun:
    """Let a driver be killed, and return its own run in MLflow."""
    script = f"{DRIVER}{how}\ndrive(Path(sys.argv[1]){arguments})"
    done = subprocess.run([sys.executable, "-c", script, str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return loaded(folder / "sweep")


def loaded(place: Path) -> TrackedRun:
    root = place if place.name == "sweep" else place.parents[1]
    found = TrackedRun.load(place, str(job(root.parent, resume=True).tracking.uri))
    assert found is not None
    return found


def children(parent: TrackedRun) -> dict[str, list[str]]:
    """Return the states of the runs below a run, by name."""
    client, found = MlflowClient(parent.uri), dict[str, list[str]]()
    experiments = [one.experiment_id for one in client.search_experiments()]
    for run in client.search_runs(experiments, f"tags.`mlflow.parentRunId` = '{parent.run_id}'"):
        found.setdefault(run.info.run_name, []).append(run.info.status)
    return {name: sorted(states) for name, states in sorted(found.items())}


@pytest.mark.parametrize("where", ["log_inputs", "log_artifact", "set_terminated"])
def test_a_run_that_a_killed_driver_was_closing_is_closed_by_the_next(folder: Path, where: str) -> None:
    parent = killed(folder, f"MlflowClient.{where} = die")
    child = loaded(folder / "sweep" / "trials" / "000")
    book = json.loads((folder / "sweep" / "sweep.json").read_text())
    assert [trial["state"] for trial in book["trials"]] == ["finished", "pending"]
    expected = {parent.run_id: None, child.run_id: parent.run_id}
    assert running_runs(parent.uri, [parent.experiment_id]) == expected

    drive(folder, resume=True)
    client = MlflowClient(parent.uri)
    assert running_runs(parent.uri, [parent.experiment_id]) == {}
    assert children(parent) == {"000": ["FINISHED"], "001": ["FINISHED"]}
    run = client.get_run(child.run_id)
    assert run.data.metrics["final/learned"] == 3
    assert [point.step for point in client.get_metric_history(child.run_id, "train/loss")] == [1, 2]
    assert "result.json" in {file.path for file in client.list_artifacts(child.run_id)}
    assert run.inputs is not None
    assert [given.dataset.name for given in run.inputs.dataset_inputs] == ["injection"]

    drive(folder, resume=True)  # what is closed is left alone
    assert client.get_run(child.run_id).info.end_time == run.info.end_time


def test_a_trial_that_was_stopped_keeps_its_numbers(folder: Path) -> None:
    unsent = "Tracker.follow = lambda *_: None\nMlflowClient.set_terminated = die"
    parent = killed(folder, unsent, ", stopped=True")
    assert json.loads((folder / "sweep" / "sweep.json").read_text())["trials"][0]["state"] == "stopped"
    drive(folder, resume=True, stopped=True)
    assert children(parent) == {"000": ["KILLED"], "001": ["KILLED"]}
    child = loaded(folder / "sweep" / "trials" / "000")
    history = MlflowClient(parent.uri).get_metric_history(child.run_id, "train/loss")
    assert [point.step for point in history] == [1, 2]


def test_a_run_that_was_never_made_is_made_and_one_that_nobody_knows_is_closed(folder: Path) -> None:
    parent = killed(
        folder,
        "TrackedRun.save = lambda run, place: die() if place.name == '000' else save(run, place)",
    )
    assert children(parent) == {"000": ["RUNNING"]}
    drive(folder, resume=True)
    assert children(parent) == {"000": ["FINISHED", "KILLED"], "001": ["FINISHED"]}
    (folder / "sweep" / "trials" / "001" / "tracking.json").unlink()
    drive(folder, resume=True)
    assert children(parent) == {"000": ["FINISHED", "KILLED"], "001": ["FINISHED", "FINISHED"]}


@pytest.mark.parametrize("change", ["deleted", "moved"])
def test_it_is_found_below_another_parent_and_in_another_experiment(folder: Path, change: str) -> None:
    parent = killed(folder, "MlflowClient.set_terminated = die")
    client, child = MlflowClient(parent.uri), loaded(folder / "sweep" / "trials" / "000")
    if change == "deleted":
        client.delete_run(parent.run_id)
    drive(folder, resume=True, experiment="cpl-ray" if change == "deleted" else "other")
    assert client.get_run(child.run_id).info.status == "FINISHED"


def test_a_trial_whose_folder_was_deleted_is_left_alone(folder: Path) -> None:
    drive(folder)
    shutil.rmtree(folder / "sweep" / "trials" / "000")
    drive(folder, resume=True)
    assert children(loaded(folder / "sweep")) == {"000": ["FINISHED"], "001": ["FINISHED"]}
    assert not (folder / "sweep" / "trials" / "000").exists()
