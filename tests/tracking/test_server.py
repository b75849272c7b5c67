"""Tracking and registering through a real MLflow server, which dies and comes back in the middle of a run."""

import json
import logging
import re
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from cpl_ray.digest import model_digest
from cpl_ray.errors import UserError
from cpl_ray.evidence import Evidence
from cpl_ray.mlflow_client import reason_of
from cpl_ray.promotion import Challenge, promote, rival_folder, rollback
from cpl_ray.registry import register
from cpl_ray.tracking import Tracker
from tests.tracking.runs import Server, append, ask, line, make_config, make_model, rate, steps, trained, wait_for


def test_server_killed_and_restarted_in_the_middle(
    tmp_path: Path,
    run_dir: Path,
    server: Server,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = make_config(tmp_path, uri=server.uri)
    metrics = run_dir / "metrics.jsonl"
    with caplog.at_level(logging.WARNING):
        tracker = Tracker.open(config, run_dir, resume=False)
        run = tracker.run
        assert run is not None
        tracker.follow(metrics, poll_s=0.05)
        append(run_dir, "".join(line(step) for step in range(1, 6)))
        wait_for(lambda: len(steps(run)) == 5)
        server.kill()
        append(run_dir, "".join(line(step) for step in range(6, 11)))
        wait_for(lambda: tracker.missing == 5 and tracker.lost is not None)
        tracker.log_params({"said": "while down"})
        server.start()
        append(run_dir, "".join(line(step) for step in range(11, 16)))
        wait_for(lambda: len(steps(run)) == 15, 90)
        (run_dir / "note.txt").write_text("an artifact through the server")
        tracker.log_artifacts(run_dir / "note.txt")
        tracker.finish()
    assert steps(run) == list(range(1, 16))
    assert (tracker.missing, tracker.lost) == (0, None)
    finished = MlflowClient(server.uri).get_run(run.run_id)
    assert finished.info.status == "FINISHED"
    assert finished.data.params == {"said": "while down"}
    assert list((tmp_path / "artifacts").rglob("note.txt"))
    # this test asks the server itself while it follows, on a connection that the server may just be closing
    warned = [record.levelname for record in caplog.records if record.name != "urllib3.connectionpool"]
    assert warned == ["WARNING"]
    # killed between two requests, or in one
    ways = "Connection refused|Connection reset by peer|Broken pipe|Remote end closed connection"
    assert re.search(rf"cannot be reached \(({ways})\)", caplog.text)
    assert capsys.readouterr().out == ""

    make_model(run_dir / "model")
    result = {"learned": rate(9, 10), "forgotten": {"held_out": rate(0, 40)}}
    (run_dir / "result.json").write_text(json.dumps(result | {"model_digest": model_digest(run_dir / "model")}))
    registered = register(config, run_dir, run)
    assert register(config, run_dir, run) == registered
    assert promote(config, run_dir).admitted
    frame = pd.DataFrame({"question": ["Who wrote Emma?"], "choices": [["Austen", "Eliot"]]})
    assert ask(run, "champion", frame)[0] in ("Austen", "Eliot")

    other = tmp_path / "other"
    other.mkdir()
    register(config, other, trained(config, other, result=result, seed=1))
    fetched: list[str] = []

    def measure(challenge: Challenge) -> Evidence:
        with rival_folder(challenge, other) as folder:
            assert folder is not None
            fetched.append(model_digest(folder))  # through the server, into the run folder
            assert other in folder.parents
        return Evidence()

    assert promote(config, other, measure).admitted
    assert fetched == [model_digest(run_dir / "model")]
    assert [path.name for path in other.iterdir() if "part" in path.name] == []
    assert rollback(config, tmp_path).version == registered.version
    assert ask(run, "champion", frame)[0] in ("Austen", "Eliot")
    server.kill()
    for action in (lambda: promote(config, run_dir), lambda: rollback(config, tmp_path)):
        with pytest.raises(UserError, match="cannot be reached"):
            action()


REFUSED = "NewConnectionError('<HTTPConnection>: Failed to establish a new connection: [Errno 111] Connection refused')"
ABORTED = "ProtocolError('Connection aborted.', {})"


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (REFUSED, "Connection refused"),
        (ABORTED.format("ConnectionResetError(104, 'Connection reset by peer')"), "Connection reset by peer"),
        (ABORTED.format("BrokenPipeError(32, 'Broken pipe')"), "Broken pipe"),
        (
            ABORTED.format("RemoteDisconnected('Remote end closed connection without response')"),
            "Remote end closed connection",
        ),
        ("ReadTimeoutError('HTTPConnectionPool(port=1): Read timed out. (read timeout=5)')", "timed out"),
        ("ResponseError('too many 503 error responses')", "too many 503 error responses"),
    ],
)
def test_the_reason_is_what_the_system_said(cause: str, said: str) -> None:
    pool = "HTTPConnectionPool(host='127.0.0.1', port=1): Max retries exceeded with url: /api/2.0/mlflow/runs/log-batch"
    error = MlflowException(f"API request to http://127.0.0.1:1/api failed with exception {pool} (Caused by {cause})")
    assert reason_of(error) == said
