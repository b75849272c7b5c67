"""Names and places of runs that would be something else: MLflow's own files, and addresses taken for paths."""

from pathlib import Path

import pytest

from cpl_ray.config import Config
from cpl_ray.errors import ConfigError
from cpl_ray.loading import load_config
from cpl_ray.rundir import RunDir, runs_folder
from pipelines.checks import check_places


def written(folder: Path) -> Path:
    path = folder / "c.yaml"
    path.write_text("model: m\ntracking: {enabled: false}\n")
    return path


@pytest.mark.parametrize(
    "name", ["mlartifacts", "MLartifacts", "mlruns", "mlflow.db", "MLFLOW.DB", "mlflow.db-journal", "mlflow.db-wal"]
)
def test_names_of_mlflow(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.name: .* is a place of MLflow's store") as caught:
        load_config(written(tmp_path), [f"run.name={name}"])
    assert repr(name) in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("name", ["mlartifacts-2", "mlflow", "mlruns.old", "my-mlflow.db"])
def test_names_like_them(tmp_path: Path, name: str) -> None:
    assert load_config(written(tmp_path), [f"run.name={name}"]).run.name == name


@pytest.mark.parametrize("place", ["s3://bucket/x", "gs://b", "hdfs://n/x", "file:///shared/runs", "s3:/bucket"])
def test_an_address_is_no_folder(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = Config.model_validate({"model": "m", "run": {"dir": place, "name": "a"}})
    for attempt in (lambda: runs_folder(config), lambda: RunDir.create(config)):
        with pytest.raises(ConfigError, match=r"run\.dir: .*is an address, not a path") as caught:
            attempt()
        assert repr(place) in str(caught.value)
    assert check_places(config)[0] == [str(caught.value)]
    assert list(tmp_path.iterdir()) == []


def test_a_password_in_it_is_not_shown() -> None:
    config = Config.model_validate({"model": "m", "run": {"dir": "s3://me:hunter2@bucket/x", "name": "a"}})
    with pytest.raises(ConfigError) as caught:
        runs_folder(config)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("place", ["runs", "/shared/runs", "./s3", "a:b/c", "C:/runs"])
def test_paths_are_paths(place: str) -> None:
    assert runs_folder(Config.model_validate({"model": "m", "run": {"dir": place}})).is_absolute()
