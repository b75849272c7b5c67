"""MLflow as it is run for a team: cluster/mlflow_server.sh on PostgreSQL and an S3-compatible store, all on loopback.

Needs the packages of servers.txt, which `make servers` installs; skipped without them.
"""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import requests
from mlflow import MlflowClient

from cpl_ray.digest import model_digest
from cpl_ray.promotion import promote, rollback
from cpl_ray.registry import register
from cpl_ray.tracking import Tracker
from tests.ports import free_port
from tests.tracking.runs import (
    GOOD,
    Server,
    aliases,
    append,
    ask,
    line,
    make_config,
    make_model,
    steps,
    trained,
    wait_for,
    with_config,
)

NEEDED = ("boto3", "flask_cors", "moto", "pgserver", "psycopg")
missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed; `make servers` does it")
BUCKET = "models"
SCRIPT = Path(__file__).resolve().parents[2] / "cluster" / "mlflow_server.sh"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
FRAME = pd.DataFrame({"question": ["Who wrote Emma?"], "choices": [["Austen", "Eliot"]]})


class TeamServer(Server):
    """The server as cluster/mlflow_server.sh starts it."""

    def __init__(self, folder: Path, store: str, bucket: Any) -> None:
        super().__init__(folder)
        self.store, self.endpoint = store, bucket.meta.endpoint_url

    def command(self) -> list[str]:
        return ["bash", str(SCRIPT)]

    def environment(self) -> dict[str, str]:
        own = {"BACKEND_STORE_URI": self.store, "ARTIFACTS_DESTINATION": f"s3://{BUCKET}/artifacts", "WORKERS": "1"}
        own |= {"PORT": str(self.port), "S3_ENDPOINT_URL": self.endpoint}
        return (
            super().environment()
            | KEYS
            | {f"MLFLOW_{name}": value for name, value in own.items()}
            | {"PYTHON": sys.executable}
        )


class Postgres:
    """PostgreSQL on a socket in a folder of its own, which can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.start()

    def start(self) -> None:
        import pgserver

        self._server = pgserver.get_server(self.folder, cleanup_mode="stop")
        self.uri = self._server.get_uri()

    def stop(self) -> None:
        self._server.cleanup()

    def rows(self, query: str) -> str:
        return str(self._server.psql(query))


@contextmanager
def object_store(folder: Path) -> Iterator[Any]:
    """An S3-compatible server with one empty bucket; yields a client of it."""
    import boto3

    port = free_port()
    with open(folder / "s3.log", "ab") as log:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: _answers(f"{url}/moto-api/"), 60)
        client = boto3.client(
            "s3", endpoint_url=url, aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1"
        )
        client.create_bucket(Bucket=BUCKET)
        yield client
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        return bool(requests.get(url, timeout=2).ok)
    except requests.RequestException:
        return False


@pytest.fixture
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    # the database's processes belong to another user where the tests are root's: pytest's folders are closed to it
    folder = Path(os.environ.get("TMPDIR", "/tmp"), f"cpl-postgres-{os.getpid()}-{free_port()}")
    folder.mkdir(mode=0o755)
    postgres = Postgres(folder)
    yield postgres
    postgres.stop()
    shutil.rmtree(folder)


def test_tracked_through_losses_registered_promoted_and_asked(
    tmp_path: Path, run_dir: Path, postgres: Postgres
) -> None:
    with object_store(tmp_path) as bucket:
        server = TeamServer(tmp_path, postgres.uri, bucket)
        server.start()
        try:
            _team(tmp_path, run_dir, server, postgres, bucket)
        finally:
            server.kill()


def _team(tmp_path: Path, run_dir: Path, server: Server, postgres: Postgres, bucket: Any) -> None:
    config = make_config(tmp_path, uri=server.uri)
    tracker = Tracker.open(config, run_dir, resume=False)
    run = tracker.run
    assert run is not None
    tracker.follow(run_dir / "metrics.jsonl", poll_s=0.05)
    append(run_dir, "".join(line(step) for step in range(1, 6)))
    wait_for(lambda: len(steps(run)) == 5)
    assert server.process is not None
    seen = Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
    assert postgres.uri.encode() not in seen  # a password in it would be there for every user of the machine
    server.kill()  # the server goes, and comes back
    append(run_dir, "".join(line(step) for step in range(6, 11)))
    wait_for(lambda: tracker.missing == 5)
    server.start()
    wait_for(lambda: len(steps(run)) == 10, 90)
    postgres.stop()  # the server stays, and has lost its database
    append(run_dir, "".join(line(step) for step in range(11, 16)))
    wait_for(lambda: tracker.missing == 5, 120)
    postgres.start()
    append(run_dir, "".join(line(step) for step in range(16, 21)))
    wait_for(lambda: tracker.missing == 0, 180)
    tracker.finish()
    assert steps(run) == list(range(1, 21))  # none missing, none twice
    assert "20" in postgres.rows("select count(*) from metrics where key = 'train/loss'")
    assert MlflowClient(server.uri).get_run(run.run_id).info.status == "FINISHED"

    make_model(run_dir / "model")
    (run_dir / "result.json").write_text(json.dumps(GOOD | {"model_digest": model_digest(run_dir / "model")}))
    first = register(config, run_dir, run)
    listed = bucket.list_objects_v2(Bucket=BUCKET)
    weights = [item for item in listed["Contents"] if item["Key"].endswith("model.safetensors")]
    assert [item["Size"] for item in weights] == [(run_dir / "model" / "model.safetensors").stat().st_size]
    assert promote(config, run_dir).admitted
    assert ask(run, "champion", FRAME)[0] in ("Austen", "Eliot")

    rivals = []
    for number in range(2):
        folder = tmp_path / f"rival{number}"
        folder.mkdir()
        its = with_config(config, run={"name": folder.name, "dir": str(tmp_path)})
        register(its, folder, trained(its, folder, result=GOOD, seed=number + 1))
        rivals.append((its, folder))
    verdicts: list[Any] = [None, None]

    def judge(number: int) -> None:
        try:
            verdicts[number] = promote(*rivals[number])
        except Exception as error:  # told below
            verdicts[number] = error

    threads = [threading.Thread(target=judge, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client = MlflowClient(server.uri)
    champion = aliases(client)["champion"]
    winners = [number for number, verdict in enumerate(verdicts) if getattr(verdict, "admitted", False)]
    assert winners, verdicts  # both may win, one after the other; the last is champion then, and nobody is lost
    digests = {str(number + 2): model_digest(folder / "model") for number, (_, folder) in enumerate(rivals)}
    assert champion in digests
    assert client.get_model_version("cpl-model", champion).tags["model_digest"] == digests[champion]
    before = rollback(config, tmp_path)
    assert str(before.version) != champion
    assert int(before.version) in (int(first.version), *map(int, digests))
