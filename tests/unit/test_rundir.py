"""The run folder: whole or not at all, never someone else's, and nothing lost without being asked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cpl_ray import lock
from cpl_ray.config import Config
from cpl_ray.errors import ConfigError, ResumeError
from cpl_ray.loading import load_config
from cpl_ray.rundir import MEASURED, TRAINED, RunDir, atomic_folder, atomic_write_bytes, atomic_write_text


def config(folder: Path, name: str | None = "a", *, resume: bool = False, overwrite: bool = False) -> Config:
    return Config.model_validate(
        {"model": "m", "run": {"dir": str(folder), "name": name, "resume": resume, "overwrite": overwrite}}
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != lock.LOCK_NAME)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "result.json"
    atomic_write_text(path, "älter")
    assert path.read_text(encoding="utf-8") == "älter"

    def fail(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        atomic_write_bytes(path, b"newer")
    assert path.read_text(encoding="utf-8") == "älter"
    assert names(path.parent) == ["result.json"]


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with atomic_folder(path) as part:
        (part / "old").write_text("1")
        assert not path.exists()
    with atomic_folder(path) as part:
        (part / "new").write_text("2")
        assert names(path) == ["old"]
    assert names(path) == ["new"]
    assert names(tmp_path) == ["model"]


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with atomic_folder(path) as part:
        (part / "old").write_text("1")

    def interrupted() -> None:
        with atomic_folder(path) as part:
            (part / "new").write_text("2")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(path) == ["old"]
    assert names(tmp_path) == ["model"]


def test_what_a_killed_writer_left_goes_on_resume(tmp_path: Path) -> None:
    run = RunDir.create(config(tmp_path))
    code = (
        "import os, sys; from cpl_ray.rundir import atomic_folder\n"
        "with atomic_folder(sys.argv[1]) as part:\n    (part / 'half').write_text('x'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(run.model)], check=False)
    assert not run.model.exists()
    assert len(names(run.root)) == 2
    RunDir.create(config(tmp_path, resume=True))
    assert names(run.root) == ["config.yaml"]


def test_a_new_run_gets_a_unique_name_and_its_configuration(tmp_path: Path) -> None:
    given = config(tmp_path, None)
    runs = [RunDir.create(given) for _ in range(5)]
    assert len({run.root for run in runs}) == 5
    for run in runs:
        assert run.root.is_absolute()
        assert load_config(run.config) == run.named(given)
        assert load_config(run.config).run.name == run.name


def test_the_saved_configuration_neither_resumes_nor_deletes(tmp_path: Path) -> None:
    saved = load_config(RunDir.create(config(tmp_path, overwrite=True)).config)
    assert (saved.run.resume, saved.run.overwrite) == (False, False)


def test_a_taken_name_is_refused_unless_resumed_or_overwritten(tmp_path: Path) -> None:
    run = RunDir.create(config(tmp_path))
    run.assessment.mkdir()
    with pytest.raises(ConfigError, match=r"'a' exists already.*run\.resume=true.*run\.overwrite=true"):
        RunDir.create(config(tmp_path))
    RunDir.create(config(tmp_path, resume=True))
    assert run.assessment.exists()
    RunDir.create(config(tmp_path, overwrite=True))
    assert names(run.root) == ["config.yaml"]


def test_a_run_that_failed_at_once_may_be_started_again(tmp_path: Path) -> None:
    run = RunDir.create(config(tmp_path))
    (run.root / "failure-20260101-000000.txt").write_text("x")
    run.tracking.write_text("{}")
    run.environment.write_text("{}")
    RunDir.create(config(tmp_path))
    assert names(run.root) == ["config.yaml"]


def test_resume_leaves_the_saved_configuration(tmp_path: Path) -> None:
    run = RunDir.create(config(tmp_path))
    before = run.config.read_bytes()
    changed = config(tmp_path, resume=True).model_copy(update={"model": "other"})
    RunDir.create(changed)
    assert run.config.read_bytes() == before


@pytest.mark.parametrize("enter", [RunDir.create, lambda c: RunDir.enter(c, writes=TRAINED)])
def test_wrong_ways_to_resume(tmp_path: Path, enter: type[RunDir]) -> None:
    RunDir.create(config(tmp_path, "there"))
    with pytest.raises(ResumeError, match=r"no run 'a'.*there"):
        enter(config(tmp_path, resume=True))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"needs run\.name"):
        enter(config(tmp_path, None, resume=True))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="both true"):
        enter(config(tmp_path, resume=True, overwrite=True))  # type: ignore[arg-type]
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_run_is_left_alone(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("x")
    with pytest.raises(ConfigError, match="not a run folder"):
        RunDir.create(config(tmp_path, overwrite=overwrite))
    assert names(tmp_path / "a") == ["thesis.txt"]


def test_stages_share_a_run_and_overwrite_their_own_part(tmp_path: Path) -> None:
    run = RunDir.enter(config(tmp_path), writes=("assessment",))
    run.assessment.mkdir()
    RunDir.enter(config(tmp_path), writes=TRAINED, outdates=MEASURED)
    run.model.mkdir()
    run.result.write_text("{}")
    with pytest.raises(ConfigError, match="has model already"):
        RunDir.enter(config(tmp_path), writes=TRAINED, outdates=MEASURED)
    RunDir.enter(config(tmp_path, overwrite=True), writes=TRAINED, outdates=MEASURED)
    assert names(run.root) == ["assessment", "config.yaml"]


def test_open_needs_an_existing_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no runs"):
        RunDir.open(config(tmp_path))
    RunDir.create(config(tmp_path, "there"))
    with pytest.raises(ConfigError, match=r"no run 'a'.*there"):
        RunDir.open(config(tmp_path))
    with pytest.raises(ConfigError, match=r"run\.name is not set.*there"):
        RunDir.open(config(tmp_path, None))
    assert RunDir.open(config(tmp_path, "there")).root == tmp_path / "there"


def test_an_unwritable_place_is_refused_up_front(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"run\.dir: cannot write to"):
        RunDir.create(config(tmp_path / "file" / "runs"))


def test_a_run_is_used_by_one_process_at_a_time(tmp_path: Path) -> None:
    run = RunDir.create(config(tmp_path))
    RunDir.open(config(tmp_path))
    code = (
        "import sys; from cpl_ray.config import Config; from cpl_ray.rundir import RunDir\n"
        "RunDir.open(Config.model_validate({'model': 'm', 'run': {'dir': sys.argv[1], 'name': 'a'}}))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "ConfigError" in refused.stderr
    assert "in use by another process" in refused.stderr
    lock.release(run.root)
    assert subprocess.run(command, check=False).returncode == 0
