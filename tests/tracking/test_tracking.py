"""The tracker against a real MLflow store (SQLite), and without any."""

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from cpl_ray.delivery import deliver
from cpl_ray.errors import ConfigError, UserError
from cpl_ray.mlflow_client import limited_http
from cpl_ray.tracking import Tracker
from cpl_ray.tracking_uri import default_uri
from tests.ports import free_port
from tests.tracking.runs import append, line, make_config, steps, wait_for


def test_a_new_run_has_absolute_places_and_is_continued_on_resume(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    run_dir = tmp_path / "r"
    run_dir.mkdir()
    tracker = Tracker.open(config, run_dir, resume=False)
    run = tracker.run
    assert run is not None
    assert run.uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert (tmp_path / "mlflow.db").is_file()
    experiment = MlflowClient(run.uri).get_experiment(run.experiment_id)
    assert experiment.artifact_location == (tmp_path / "mlartifacts").as_uri()
    saved = json.loads((run_dir / "tracking.json").read_text())
    assert saved == {"uri": run.uri, "experiment_id": run.experiment_id, "run_id": run.run_id}
    tracker.finish()
    assert MlflowClient(run.uri).get_run(run.run_id).info.status == "FINISHED"

    again = Tracker.open(config, run_dir, resume=True)
    assert again.run == run
    assert MlflowClient(run.uri).get_run(run.run_id).info.status == "RUNNING"
    again.finish("FAILED")
    assert MlflowClient(run.uri).get_run(run.run_id).info.status == "FAILED"

    other = Tracker.open(config, run_dir, resume=False)
    assert other.run is not None
    assert other.run.run_id != run.run_id
    other.finish()


def test_resume_without_a_known_run_starts_one(tmp_path: Path, run_dir: Path) -> None:
    config = make_config(tmp_path)
    (run_dir / "tracking.json").write_text('{"uri": "x", "experiment_id": "1", "run_id": "' + "0" * 32 + '"}')
    tracker = Tracker.open(config, run_dir, resume=True)
    assert tracker.run is not None
    assert tracker.run.run_id != "0" * 32
    (run_dir / "tracking.json").write_text('{"uri": ')
    assert Tracker.open(config, run_dir, resume=True).run is not None


def test_follow_sends_every_whole_record_once(tmp_path: Path, run_dir: Path) -> None:
    config = make_config(tmp_path)
    tracker = Tracker.open(config, run_dir, resume=False)
    tracker.follow(run_dir / "metrics.jsonl", poll_s=0.05)
    append(run_dir, "".join(line(step) for step in range(1, 301)))  # more than one call of MLflow takes
    append(run_dir, line(300, "eval", learned=0.5) + "not json\n[]\n" + line(301)[:20])
    wait_for(lambda: len(steps(tracker.run)) == 300)
    append(run_dir, line(301)[20:])
    wait_for(lambda: steps(tracker.run) == list(range(1, 302)))
    tracker.finish()
    assert tracker.missing == 0
    assert steps(tracker.run, "eval/learned") == [300]
    run = tracker.run
    assert run is not None
    first = MlflowClient(run.uri).get_metric_history(run.run_id, "train/loss")[0]
    assert (first.step, first.value, first.timestamp) == (1, 0.5, 1_700_000_001_000)


def test_replayed_steps_are_not_logged_twice(tmp_path: Path, run_dir: Path) -> None:
    """A restarted worker replaces the file by one cut to its checkpoint and repeats what came after, later."""
    config = make_config(tmp_path)
    tracker = Tracker.open(config, run_dir, resume=False)
    tracker.follow(run_dir / "metrics.jsonl", poll_s=0.05)
    append(run_dir, "".join(line(step) for step in range(1, 11)))
    wait_for(lambda: len(steps(tracker.run)) == 10)
    cut = run_dir / "cut"
    cut.write_text("".join(line(step) for step in range(1, 7)))
    cut.rename(run_dir / "metrics.jsonl")
    append(run_dir, "".join(line(step, at=1.8e9) for step in range(7, 13)))
    wait_for(lambda: len(steps(tracker.run)) == 12)
    tracker.finish()
    assert steps(tracker.run) == list(range(1, 13))

    # The driver was killed as well: a new process knows only what MLflow has.
    (run_dir / "metrics.jsonl").write_text("".join(line(step, at=1.9e9) for step in range(1, 16)))
    resumed = Tracker.open(config, run_dir, resume=True)
    resumed.follow(run_dir / "metrics.jsonl", poll_s=0.05)
    assert resumed.flush(20)
    resumed.finish()
    assert steps(resumed.run) == list(range(1, 16))


def test_file_rewritten_in_place_is_read_again(tmp_path: Path, run_dir: Path) -> None:
    config = make_config(tmp_path)
    tracker = Tracker.open(config, run_dir, resume=False)
    tracker.follow(run_dir / "metrics.jsonl", poll_s=30)
    append(run_dir, "".join(line(step) for step in range(1, 6)))
    assert tracker.flush()
    (run_dir / "metrics.jsonl").write_text("".join(line(step, at=1.8e9, loss=0.123456789) for step in range(1, 21)))
    assert tracker.flush()
    tracker.finish()
    assert steps(tracker.run) == list(range(1, 21))


def test_params_are_flat_and_without_secrets(tmp_path: Path, run_dir: Path) -> None:
    tracker = Tracker.open(make_config(tmp_path), run_dir, resume=False)
    params = {
        "tracking": {"uri": "http://ann:p@ss@host:5000/x", "other": "postgresql+psycopg2://u:p@h/db?password=hunter2"},
        "deepspeed": {"zero": {"stage": 2, "hub_token": "abc"}, "empty": {}},
        "assess": {"max_new_tokens": 32},
        "nothing": None,
        "long": "x" * 9000,
        "odd key!": [1, 2],
    }
    tracker.log_params(params)
    tracker.log_params({**params, "nothing": 3})
    assert tracker.missing == 0
    run = tracker.run
    assert run is not None
    data = MlflowClient(run.uri).get_run(run.run_id).data
    assert data.params["tracking.uri"] == "http://***@host:5000/x"
    assert data.params["tracking.other"] == "postgresql+psycopg2://***@h/db?password=***"
    assert data.params["deepspeed.zero.stage"] == "2"
    assert data.params["deepspeed.zero.hub_token"] == "***"
    assert data.params["assess.max_new_tokens"] == "32"
    assert data.params["odd key_"] == "[1, 2]"
    assert data.params["nothing"] == "null"
    assert len(data.params["long"]) == 6000
    assert {key: value for key, value in data.tags.items() if key.startswith("resumed.")} == {"resumed.nothing": "3"}
    tracker.finish()


def test_datasets_numbers_and_files(tmp_path: Path, run_dir: Path) -> None:
    tracker = Tracker.open(make_config(tmp_path), run_dir, resume=False)
    manifest = {
        "parts": {
            "mastered_test": {"file": "mastered_test.parquet", "rows": 3, "sha256": "ab" * 32},
            "injection_held_out": {"file": "injection_held_out.parquet", "rows": 0, "sha256": "cd" * 32},
        }
    }
    (run_dir / "figures").mkdir()
    (run_dir / "figures" / "a.png").write_bytes(b"png")
    (run_dir / "config.yaml").write_text("uri: http://ann:secret@host\n")
    for _ in range(2):
        tracker.log_datasets(manifest, run_dir)
        tracker.log_metrics({"learned": 0.96}, step=12)
        tracker.log_artifacts(run_dir / "figures")
        tracker.log_artifacts(run_dir / "config.yaml")
        tracker.log_artifacts(run_dir / "absent.json")
    tracker.finish()
    assert tracker.missing == 0
    run = tracker.run
    assert run is not None
    client = MlflowClient(run.uri)
    inputs = client.get_run(run.run_id).inputs
    assert inputs is not None
    (given,) = inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("mastered_test", ("ab" * 32)[:36])
    assert json.loads(given.dataset.profile or "") == {"num_rows": 3, "sha256": "ab" * 32}
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "mastered_test")]
    assert steps(run, "learned") == [12]
    root = tmp_path / "mlartifacts" / run.run_id / "artifacts"
    assert (root / "figures" / "a.png").read_bytes() == b"png"
    assert (root / "config.yaml").read_text() == "uri: http://***@host\n"


@pytest.mark.parametrize("uri", ["file:///x/mlruns", "./mlruns", "/abs/mlruns", "htp://host:5000", "C:\\mlruns"])
def test_unusable_uri_is_a_configuration_error(tmp_path: Path, run_dir: Path, uri: str) -> None:
    with pytest.raises(ConfigError, match=r"tracking\.uri"):
        Tracker.open(make_config(tmp_path, uri=uri), run_dir, resume=False)


def test_default_uri_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_uri(make_config(tmp_path), Path("runs")) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert default_uri(make_config(tmp_path), tmp_path) == "http://host:5000"
    assert default_uri(make_config(tmp_path, uri="sqlite:///x.db"), tmp_path) == f"sqlite:///{tmp_path}/x.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:///x")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
        default_uri(make_config(tmp_path), tmp_path)


def test_tracking_off_does_nothing(tmp_path: Path, run_dir: Path) -> None:
    config = make_config(tmp_path, enabled=False)
    tracker = Tracker.open(config, run_dir, resume=False)
    tracker.follow(run_dir / "metrics.jsonl")
    tracker.log_params({"a": 1})
    assert tracker.flush()
    tracker.finish()
    assert (tracker.run, tracker.missing, tracker.lost) == (None, 0, None)
    assert list(run_dir.iterdir()) == []
    with pytest.raises(ConfigError, match=r"tracking\.enabled"):
        deliver(config, run_dir)


def test_server_that_never_answers_costs_seconds_and_one_warning(
    tmp_path: Path, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = f"http://ann:secret@127.0.0.1:{free_port()}"
    config = make_config(tmp_path, uri=uri)
    start = time.monotonic()
    with caplog.at_level(logging.WARNING):
        tracker = Tracker.open(config, run_dir, resume=False)
        tracker.log_params({"a": 1})
        tracker.follow(run_dir / "metrics.jsonl", poll_s=0.05)
        append(run_dir, "".join(line(step) for step in range(1, 8)))
        wait_for(lambda: tracker.missing == 8 and tracker.lost is not None)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "cannot be reached" in caplog.text
        tracker.finish(timeout_s=1)
    assert time.monotonic() - start < 100  # with MLflow's own retries one call takes minutes
    assert tracker.missing == 8
    assert len(caplog.records) == 2
    assert "lacks 8 entries" in caplog.records[1].getMessage()
    assert "secret" not in caplog.text
    with pytest.raises(UserError, match="cannot be reached") as failure:
        deliver(config, run_dir)
    assert "secret" not in str(failure.value)

    # The numbers were kept: they go to whatever store answers later.
    run = deliver(make_config(tmp_path), run_dir)
    assert steps(run) == list(range(1, 8))
    assert deliver(make_config(tmp_path), run_dir) == run
    assert steps(run) == list(range(1, 8))


@pytest.mark.parametrize(
    ("ended", "afterwards"), [("FAILED", "FAILED"), ("KILLED", "KILLED"), ("FINISHED", "FINISHED"), (None, "FINISHED")]
)
def test_delivering_keeps_how_the_run_ended(tmp_path: Path, run_dir: Path, ended: Any, afterwards: str) -> None:
    config = make_config(tmp_path)
    tracker = Tracker.open(config, run_dir, resume=False)
    if ended is not None:
        tracker.finish(ended)
    append(run_dir, line(1))
    run = deliver(config, run_dir)
    assert run == tracker.run
    assert steps(run) == [1]
    assert MlflowClient(run.uri).get_run(run.run_id).info.status == afterwards


def test_store_that_cannot_be_opened_is_only_a_warning(
    tmp_path: Path, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "bad.db").write_bytes(b"this is no database, and it is long enough to be one" * 100)
    tracker = Tracker.open(make_config(tmp_path, uri=f"sqlite:///{tmp_path}/bad.db"), run_dir, resume=False)
    assert tracker.run is None
    assert "cannot be reached" in caplog.text
    tracker.finish(timeout_s=0)


def test_two_drivers_make_one_new_database_together(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from cpl_ray.config import *; from cpl_ray.tracking import Tracker\n"
        "root = Path(sys.argv[1]); name = sys.argv[2]; (root / name).mkdir()\n"
        "config = Config(model='m', run=RunSection(name=name, dir=str(root)))\n"
        "tracker = Tracker.open(config, root / name, resume=False); tracker.finish()\n"
        "sys.exit(tracker.run is None)\n"
    )
    repository = Path(__file__).parents[2]
    started = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), name], cwd=repository) for name in ("a", "b")
    ]
    assert [process.wait(240) for process in started] == [0, 0]
    ids = {json.loads((tmp_path / name / "tracking.json").read_text())["experiment_id"] for name in ("a", "b")}
    assert len(ids) == 1


def test_limits_leave_the_users_settings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    with limited_http(5):
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ
