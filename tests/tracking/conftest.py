"""Fixtures of the tracking tests."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cpl_ray.mlflow_client import connect
from tests.tracking.runs import Server


@pytest.fixture(autouse=True)
def _no_foreign_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite store with its tables and nothing in them; making one takes seconds, a copy none."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def run_dir(tmp_path: Path, empty_store: Path) -> Path:
    """The folder of a run `r`, beside the store of `run.dir`."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    folder = tmp_path / "r"
    folder.mkdir()
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.kill()
