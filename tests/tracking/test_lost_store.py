"""A store that fails in the middle of a run, or is lost in the making."""

import logging
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from cpl_ray.mlflow_client import connect
from cpl_ray.tracking import Tracker
from tests.tracking.runs import append, line, make_config, steps, wait_for


def test_a_failing_database_is_told_in_one_sentence(
    tmp_path: Path, run_dir: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    tracker = Tracker.open(make_config(tmp_path), run_dir, resume=False)
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        store.execute("ALTER TABLE metrics RENAME TO hidden")
    with caplog.at_level(logging.WARNING):
        tracker.follow(run_dir / "metrics.jsonl", poll_s=0.05)
        append(run_dir, "".join(line(step) for step in range(1, 4)))
        wait_for(lambda: tracker.missing == 3 and tracker.lost is not None)
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        store.execute("ALTER TABLE hidden RENAME TO metrics")
    wait_for(lambda: tracker.missing == 0, 60)
    run = tracker.run
    tracker.finish()
    assert steps(run) == [1, 2, 3]
    said = caplog.text + "".join(capfd.readouterr())
    assert "no such table" in said
    assert "Traceback" not in said


def test_a_store_that_comes_back_at_the_end_closes_the_run(tmp_path: Path, run_dir: Path) -> None:
    tracker = Tracker.open(make_config(tmp_path), run_dir, resume=False)
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        store.execute("ALTER TABLE metrics RENAME TO hidden")
    tracker.follow(run_dir / "metrics.jsonl", poll_s=0.05)
    for step in range(1, 4):  # each time it fails the next try is later
        append(run_dir, line(step))
        wait_for(lambda: tracker.lost is not None)
        assert not tracker.flush(1.0)
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        store.execute("ALTER TABLE hidden RENAME TO metrics")
    tracker.finish()
    run = tracker.run
    assert run is not None
    assert steps(run) == [1, 2, 3]
    assert MlflowClient(run.uri).get_run(run.run_id).info.status == "FINISHED"


def bytes_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # a journal comes and goes
        return -1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("size", [0, 150_000, 300_000])
def test_a_store_lost_in_the_making_is_made_again(tmp_path: Path, size: int, number: signal.Signals) -> None:
    """MLflow changes the tables of a new database dozens of times; what stands half way it refuses for good."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    making = "import sys; from cpl_ray.mlflow_client import connect; print(flush=True); connect(sys.argv[1])"
    process = subprocess.Popen(
        [sys.executable, "-c", making, uri],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        wait_for(lambda: any(bytes_of(path) > size for path in tmp_path.glob("*mlflow.db*")), 200)
        process.send_signal(number)
        process.communicate()  # a slow machine may look when it is done already; then it is whole
    finally:
        process.kill()
    assert connect(uri).search_experiments()
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []
