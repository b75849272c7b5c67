"""Runs and sweeps of a folder: each state from the files that make it, and nothing broken ends the listing."""

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cpl_ray import listing, lock
from cpl_ray.errors import ConfigError
from cpl_ray.listing import list_runs, look_at
from cpl_ray.lock import LOCK_NAME, hold, is_held, release
from cpl_ray.run_details import details_of, find_run

RATE = {"count": 3, "of": 241, "share": 0.0124, "low": 0.0026, "high": 0.036}
RESULT = {"learned": RATE | {"count": 100}, "forgotten": {"held_out": RATE, "validation": RATE}, "steps": 90}
TRAIN = {"step": 7, "kind": "train", "time": 1.0, "loss_injection": 0.5}
EVAL = {"step": 6, "kind": "eval", "time": 1.0, "learned": 2.0, "learned_of": 8.0}


@pytest.fixture(autouse=True)
def _released() -> Iterator[None]:
    yield
    for folder in list(lock._held):
        release(folder)


def make_run(base: Path, name: str = "a", at: float = 1000.0) -> Path:
    folder = base / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"model: m/base\nrun: {{dir: {base}, name: {name}}}\n")
    os.utime(folder / "config.yaml", (at, at))
    return folder


def make_sweep(base: Path, state: str = "finished", **more: Any) -> Path:
    folder = base / "s"
    folder.mkdir(parents=True)
    point = {"point_id": 0, "point": {"optimizer.lr": 1e-4}, "learned": RATE, "forgotten": {"held_out": RATE}}
    trial = {"index": 0, "point_id": 0, "point": point["point"], "seed": 0, "run_dir": "trials/000", "error": None}
    content = {
        "sweep": "s",
        "model": "m/base",
        "state": state,
        "trials": [{**trial, "state": "finished"}, {**trial, "index": 1, "state": "pending"}],
        "points": [point],
        "best": {"point_id": 0, "reason": "only one"},
    }
    (folder / "sweep.json").write_text(json.dumps(content | more))
    return folder


def write(folder: Path, name: str, content: Any) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = content if isinstance(content, list) else [content]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def trained(folder: Path) -> None:
    write(folder, "metrics.jsonl", [EVAL, TRAIN])
    write(folder, "model/config.json", {})


def failed(folder: Path) -> None:
    write(folder, "metrics.jsonl", [TRAIN])
    write(folder, "train/failure.txt", "x")


def resumed_after_a_failure(folder: Path) -> None:
    failed(folder)
    os.utime(folder / "train" / "failure.txt", (2000.0, 2000.0))


def evaluated_after_a_failure(folder: Path) -> None:
    resumed_after_a_failure(folder)
    trained(folder)
    write(folder, "result.json", RESULT)


@pytest.mark.parametrize(
    ("make", "state"),
    [
        (lambda folder: None, "interrupted"),
        (lambda folder: (folder / "assessment").mkdir(), "assessed"),
        (lambda folder: write(folder, "proposed.json", {"kept": 3}), "proposed"),
        (lambda folder: write(folder, "train/x", 1), "interrupted"),
        (trained, "trained"),
        (failed, "failed"),
        (lambda folder: write(folder, "failure-20261122-000000.txt", "x"), "failed"),
        (resumed_after_a_failure, "interrupted"),
        (evaluated_after_a_failure, "finished"),
    ],
)
def test_the_state_of_a_run(tmp_path: Path, make: Callable[[Path], Any], state: str) -> None:
    folder = make_run(tmp_path)
    make(folder)
    (found,) = list_runs(tmp_path)
    assert (found.name, found.kind, found.state, found.model, found.rule) == ("a", "run", state, "m/base", "cpl")


def test_numbers_come_from_the_result_or_else_from_the_last_records(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    trained(folder)
    before = look_at(folder)
    assert before is not None
    assert before.learned is not None
    assert (before.learned["count"], before.learned["of"], before.forgotten_held_out, before.updates) == (2, 8, None, 7)
    write(folder, "result.json", RESULT)
    after = look_at(folder)
    assert after is not None
    assert after.forgotten_held_out is not None
    assert (after.forgotten_held_out["count"], after.updates) == (3, 90)


def test_what_began_last_comes_first(tmp_path: Path) -> None:
    for name, at in (("old", 10.0), ("new", 30.0), ("middle", 20.0)):
        make_run(tmp_path, name, at)
    assert [one.name for one in list_runs(tmp_path)] == ["new", "middle", "old"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("result.json", "{", "result.json is not valid JSON"),
        ("result.json", "[]", "no JSON object"),
        ("result.json", b"\xff", "result.json is not valid JSON"),
        ("config.yaml", "model: [", "not valid YAML"),
        ("config.yaml", "site_name: docs", "unknown key 'site_name'"),
        ("sweep.json", "{}", "state is None"),
        ("sweep.json", '{"state": "finished", "trials": [1]}', "trials is not a list of objects"),
    ],
)
def test_broken_files_make_a_damaged_run(tmp_path: Path, name: str, content: str | bytes, reason: str) -> None:
    folder = make_run(tmp_path)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (found,) = list_runs(tmp_path)
    assert found.state == "damaged"
    assert found.problem is not None
    assert reason in found.problem
    assert details_of(folder) is not None


def test_odd_values_are_left_out(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    odd = {"learned": {"count": 9, "of": 3}, "forgotten": [1], "steps": "many", "gate": 1}
    write(folder, "result.json", odd)
    (folder / "metrics.jsonl").write_bytes(b"\xff\xfe\n[]\n")
    details = details_of(folder)
    assert details is not None
    assert (details["state"], details["learned"], details["updates"], details["gate"]) == ("finished", None, None, None)


def test_foreign_folders_are_left_out_and_remains_are_named(tmp_path: Path) -> None:
    write(tmp_path, "base/config.json", {})
    write(tmp_path, "mlartifacts/x/metrics.jsonl", TRAIN)
    (tmp_path / "mlflow.db").write_text("")
    write(tmp_path, "remains/metrics.jsonl", TRAIN)
    write(tmp_path, "remains/train/summary.json", {})
    (found,) = list_runs(tmp_path)
    assert (found.name, found.state, found.problem) == ("remains", "damaged", "config.yaml is missing")
    with pytest.raises(ConfigError, match="no folder"):
        list_runs(tmp_path / "none")


@pytest.mark.parametrize(
    ("said", "held", "state"),
    [
        ("running", True, "running"),
        ("running", False, "interrupted"),
        ("interrupted", False, "interrupted"),
        ("interrupted", True, "running"),
        ("finished", False, "finished"),
    ],
)
def test_the_state_of_a_sweep(tmp_path: Path, said: str, held: bool, state: str) -> None:
    folder = make_sweep(tmp_path, said)
    if held:
        hold(folder)
    (found,) = list_runs(tmp_path)
    assert (found.kind, found.state, found.trials) == ("sweep", state, {"finished": 1, "pending": 1})
    assert found.learned is not None
    assert found.learned["count"] == 3


def test_another_process_that_holds_a_run_is_seen_and_not_disturbed(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    (folder / LOCK_NAME).touch()
    assert is_held(folder) is False
    code = (
        "import sys; from pathlib import Path; from cpl_ray.lock import hold\n"
        "hold(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            assert [one.state for one in list_runs(tmp_path)] == ["running"]
            with pytest.raises(ConfigError, match="in use"):
                hold(folder)
        finally:
            process.communicate("")
    deadline = time.monotonic() + 10
    while is_held(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [one.state for one in list_runs(tmp_path)] == ["interrupted"]


def test_asking_takes_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold(make_run(tmp_path))

    def taken(*arguments: object) -> None:
        raise AssertionError("a lock was asked for")

    monkeypatch.setattr(fcntl, "flock", taken)
    monkeypatch.setattr(fcntl, "lockf", taken)
    assert is_held(tmp_path / "a") is True


def test_where_the_system_does_not_tell_the_state_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(tmp_path)
    (folder / LOCK_NAME).touch()
    monkeypatch.setattr(lock, "_LOCKS_OF_THIS_MACHINE", tmp_path / "none")
    assert [one.state for one in list_runs(tmp_path)] == ["unknown"]


def test_details_of_a_failed_run(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    write(folder, "metrics.jsonl", [EVAL, TRAIN])
    write(folder, "train/checkpoints/step_00000004/manifest.json", {})
    write(folder, "train/checkpoints/step_00000006/state.json", {})
    write(folder, "tracking.json", {"uri": "sqlite:///x", "run_id": "1f"})
    write(folder, "train/failure.txt", "worker 1 died")
    found = find_run("a", tmp_path)
    assert (found["state"], found["checkpoint_step"], found["mlflow"]["run_id"]) == ("failed", 4, "1f")
    assert "worker 1 died" in found["failure"]["text"]
    assert found["last_update"]["step"] == 7
    assert found["stages"] == {"assess": False, "train": False, "evaluate": False, "register": False}
    assert find_run(str(folder), tmp_path / "elsewhere")["name"] == "a"
    with pytest.raises(ConfigError, match=r"no run or sweep 'b'.*newest there: a"):
        find_run("b", tmp_path)


def test_details_of_a_sweep(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    found = find_run("s", tmp_path)
    assert found["sweep"]["best"]["reason"] == "only one"
    assert found["best_point"]["point"] == {"optimizer.lr": 1e-4}


def test_paths_are_those_that_training_writes() -> None:
    from cpl_ray.checkpoint import CHECKPOINTS
    from cpl_ray.trainer import FAILURE
    from cpl_ray.worker import SUMMARY

    assert (listing.CHECKPOINTS, listing.TRAINING_FAILURE, listing.SUMMARY) == (CHECKPOINTS, FAILURE, SUMMARY)
