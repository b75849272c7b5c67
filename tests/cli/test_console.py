"""What all verbs share: every way a stage may end becomes the right exit code, message and output."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from ray.exceptions import ActorDiedError

from cpl_ray import lock
from cpl_ray.config import Config
from cpl_ray.errors import DataError, NonFiniteError, TrackingError, UserError
from cpl_ray.listing import list_runs
from cpl_ray.rundir import RunDir
from pipelines.console import Outcome, Say, execute, run_stage, user_error
from pipelines.headline import show_headline

RATE = {"count": 3, "of": 40, "share": 0.075, "low": 0.0157, "high": 0.2039}


@pytest.fixture(autouse=True)
def _restore(tmp_path: Path) -> Iterator[None]:
    handlers = list(logging.getLogger().handlers)
    yield
    logging.getLogger().handlers[:] = handlers
    for folder in list(lock._held):
        lock.release(folder)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(f"model: m\ndata: {{items: a.jsonl}}\nrun: {{dir: {tmp_path / 'runs'}, name: a}}\n")
    return path


def end(path: Path, stage: Any, *overrides: str, as_json: bool = False, resumable: bool = False) -> int:
    """Run `stage` as a verb and return the exit code."""
    with pytest.raises(typer.Exit) as raised:
        run_stage(Outcome("train", as_json), path, overrides, RunDir.create, stage, resumable=resumable)
    return raised.value.exit_code


def fail(error: BaseException) -> Any:
    def stage(config: Config, run: RunDir, say: Say) -> dict[str, Any]:
        raise error

    return stage


def test_a_stage_gets_the_final_name_and_its_result_is_shown(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def stage(found: Config, run: RunDir, say: Say) -> dict[str, Any]:
        assert found.run.name == run.name
        assert run.name.startswith("cpl-")
        say("working [on] it")
        return {
            "learned": RATE,
            "forgotten": {"held_out": RATE | {"count": 1}, "in_set": None},
            "learned_held_out": None,
        }

    assert end(config, stage, "run.name=null", "optimizer.momentum=0.5") == 0
    out, err = capfd.readouterr()
    assert "working [on] it\n" in err
    assert "note: optimizer.momentum has no effect" in err
    assert out.index("held-out (M test)") < out.index("learned (I)")
    assert "7.5 %" in out
    assert "1.6–20.4 %" in out


def test_json_keeps_stdout_for_the_object(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def stage(found: Config, run: RunDir, say: Say) -> dict[str, Any]:
        print("a library prints")
        os.system("echo a child prints")
        os.write(1, b"C code prints\n")
        return {"learned": RATE, "model": run.model}

    assert end(config, stage, as_json=True) == 0
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert (found["ok"], found["exit_code"], found["verb"], found["learned"]) == (True, 0, "train", RATE)
    assert found["run_dir"] == str(config.parent / "runs" / "a")
    assert [line for line in ("a library", "a child", "C code") if f"{line} prints" not in err] == []


def test_json_makes_every_line_on_stderr_an_event(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def stage(found: Config, run: RunDir, say: Say) -> dict[str, Any]:
        say("update 7", event="evaluation", step=7, learned=3, loss=float("nan"))
        logging.getLogger("cpl_ray.x").warning("lost %s", "it")
        raise DataError("no items")

    logging.getLogger().handlers[:] = []  # those of pytest: a root logger with handlers is left as it is
    assert end(config, stage, "optimizer.momentum=0.5", as_json=True) == 1
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [event["event"] for event in events] == ["note", "run_folder", "evaluation", "log", "error"]
    assert [event for event in events if not event["time"].endswith("Z") or not event["message"]] == []
    assert events[1]["run_dir"] == str(config.parent / "runs" / "a")
    assert (events[2]["step"], events[2]["learned"], events[2]["loss"]) == (7, 3, None)
    assert (events[3]["level"], events[3]["logger"], events[3]["message"]) == ("warning", "cpl_ray.x", "lost it")
    assert (events[4]["type"], events[4]["message"]) == ("DataError", "no items")


def test_quiet_tells_errors_only(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        run_stage(Outcome("train", quiet=True), config, (), RunDir.create, fail(DataError("no items")))
    assert capfd.readouterr().err == "error: no items\n"


@pytest.mark.parametrize(("admitted", "code"), [(True, 0), (False, 2)])
def test_the_gate_decides_between_0_and_2(
    config: Path, capfd: pytest.CaptureFixture[str], admitted: bool, code: int
) -> None:
    gate = {"admitted": admitted, "reasons": [] if admitted else ["forgot 9 of 40"]}
    assert end(config, lambda *_: {"gate": gate}, as_json=True) == code
    out, err = capfd.readouterr()
    assert json.loads(out)["exit_code"] == code
    assert ("forgot 9 of 40" in err) != admitted


def test_a_user_error_is_one_message(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert end(config, fail(DataError("no items in a.jsonl"))) == 1
    err = capfd.readouterr().err
    assert "error: no items in a.jsonl\n" in err
    assert "Traceback" not in err
    assert [one.state for one in list_runs(config.parent / "runs")] == ["running"]  # held by this process
    lock.release(config.parent / "runs" / "a")
    assert [one.state for one in list_runs(config.parent / "runs")] == ["failed"]


def test_an_unexpected_error_leaves_its_traceback_in_the_run(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert end(config, fail(ZeroDivisionError("by zero"))) == 1
    err = capfd.readouterr().err
    (written,) = (config.parent / "runs" / "a").glob("failure-*.txt")
    assert str(written) in err
    assert "ZeroDivisionError: by zero" in err
    assert "Traceback" not in err
    assert "Traceback" in written.read_text()


def test_before_a_run_folder_exists_the_traceback_goes_to_a_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def work() -> dict[str, Any]:
        raise ZeroDivisionError

    with pytest.raises(typer.Exit) as raised:
        execute(Outcome("env"), work, lambda _: None)
    assert raised.value.exit_code == 1
    (written,) = tmp_path.glob("cpl-failure-*.txt")
    assert str(written) in capfd.readouterr().err


def test_debugging_shows_tracebacks(
    config: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CPL_DEBUG", "1")
    assert end(config, fail(DataError("no items"))) == 1
    assert "Traceback" in capfd.readouterr().err


def test_an_interruption_says_how_to_continue(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    overrides = ("run.overwrite=true", "optimizer.options={a: 1}")
    assert end(config, fail(KeyboardInterrupt()), *overrides, resumable=True) == 130
    command = f"cpl train {config} 'optimizer.options={{a: 1}}' run.name=a run.resume=true\n"
    assert f"continue with: {command}" in capfd.readouterr().err
    assert end(config, fail(KeyboardInterrupt()), "train.checkpoint_every=null", resumable=True) == 130
    assert "continue with" not in capfd.readouterr().err


def test_what_ray_lost_is_said_with_how_to_go_on(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert end(config, fail(ActorDiedError()), resumable=True) == 1
    said = capfd.readouterr().err
    assert "Ray lost a process that the command needs (The actor died unexpectedly before finishing this task.)" in said
    assert f"; continue with: cpl train {config} run.name=a run.resume=true\n" in said


def test_what_mlflow_lacks_is_said_with_how_to_go_on(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    error = TrackingError("MLflow at http://127.0.0.1:1 cannot be reached (refused); start it or set tracking.uri")
    assert end(config, fail(error), resumable=True) == 1
    said = capfd.readouterr().err
    assert f"start it or set tracking.uri; continue with: cpl train {config} run.name=a run.resume=true\n" in said


def test_user_errors_are_found_inside_those_of_the_cluster() -> None:
    class RemoteError(Exception):
        def __init__(self, cause: BaseException) -> None:
            super().__init__("a long remote traceback")
            self.cause = cause

    class DerivedError(RemoteError, UserError):
        """As Ray derives one from the class of the cause."""

    class GroupError(Exception):
        def __init__(self, failures: dict[int, BaseException]) -> None:
            super().__init__("workers failed")
            self.worker_failures = failures

    cause = NonFiniteError("the loss is NaN")
    assert user_error(cause) is cause
    assert user_error(DerivedError(cause)) is cause
    assert user_error(GroupError({0: RuntimeError("connection reset"), 1: RemoteError(cause)})) is cause
    outer = RuntimeError("outer")
    outer.__cause__ = DerivedError(cause)
    assert user_error(outer) is cause
    assert user_error(RuntimeError("alone")) is None


def test_partial_results_are_shown_without_a_table(capfd: pytest.CaptureFixture[str]) -> None:
    show_headline({"registered": {"name": "cpl-model", "version": 3}}, None)
    assert capfd.readouterr().out == "registered: cpl-model version 3\n"
