"""A store that fails in the middle of a run: one warning in a sentence, nothing of MLflow's own tracebacks."""

import logging
import sqlite3
from pathlib import Path

import pytest

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
