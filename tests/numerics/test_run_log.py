"""The log of a rank: what a real loop writes, that it changes no bit of the training, and broken files."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cpl_ray import run_log
from cpl_ray.config import Config
from cpl_ray.errors import NonFiniteError
from cpl_ray.loop import TrainingLoop
from cpl_ray.run_log import LOGS, Place, event, log_path, logged
from tests.oracle.plain_engine import PlainEngine
from tests.oracle.toy import Rowset, toy_items, toy_model

MASTERED, INJECTION = toy_items(7, seed=1), toy_items(5, seed=2)
_log = logging.getLogger("cpl_ray.anything")


def read(folder: Path, rank: int | None = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log_path(folder, rank).read_text("utf-8").splitlines()]


def train(folder: Path | None, *, lr: float = 1.0, broken: bool = False) -> nn.Module:
    train = {"epochs": 4, "micro_batch_size": 5, "mastered_batch_size": 4, "checkpoint_every": None}
    values = {"model": "toy", "guard": {"mode": "rollback"}, "optimizer": {"name": "adamw", "lr": lr}, "train": train}
    config = Config.model_validate(values)
    model, place = toy_model(dropout=0.1), Place("demo", rank=0)
    if broken:
        torch.nn.init.constant_(dict(model.named_parameters())["model.norm.weight"], float("nan"))
    engine = PlainEngine(model, config)
    asked = {"learned": 1.0, "learned_of": 5.0, "margin": float("nan")}
    loop = TrainingLoop(
        config,
        engine,
        Rowset(INJECTION),
        Rowset(MASTERED),
        pad_id=0,
        run_folder=folder,
        evaluate=lambda: asked,
        place=place,
    )
    with logged(folder, place):
        loop.run()
    return model


def test_a_loop_tells_start_evaluations_cuts_and_end_with_their_step(tmp_path: Path) -> None:
    train(tmp_path)
    lines = read(tmp_path)
    assert {(line["run"], line["rank"], line["pid"]) for line in lines} == {("demo", 0, os.getpid())}
    assert (lines[0]["event"], lines[0]["total_steps"], lines[0]["step"]) == ("started", 4, 0)
    assert (lines[-1]["event"], lines[-1]["step"]) == ("ended", 4)
    evaluations = [line for line in lines if line["event"] == "evaluation"]
    assert [line["step"] for line in evaluations] == [0, 1, 2, 3, 4]
    assert {(line["learned"], line["margin"]) for line in evaluations} == {(1.0, None)}  # JSON knows no NaN
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    cut = [(r["step"] - 1, r["step_scale"]) for r in metrics if r["kind"] == "train" and not r["held"]]
    assert cut  # at this rate steps have to be cut
    assert [(line["step"], line["step_scale"]) for line in lines if line["event"] == "guard"] == cut


def test_the_log_changes_no_bit_of_the_training(tmp_path: Path) -> None:
    with_log, without = train(tmp_path), train(None)
    assert read(tmp_path)
    pairs = zip(with_log.parameters(), without.parameters(), strict=True)
    assert all(torch.equal(ours, other) for ours, other in pairs)


def test_non_finite_is_told_as_an_error_with_its_step(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError) as raised:
        train(tmp_path, broken=True)
    last = read(tmp_path)[-1]
    assert (last["event"], last["level"], last["step"]) == ("non_finite", "error", 0)
    assert str(raised.value) in last["message"]


def test_a_second_attempt_appends_after_a_torn_line(tmp_path: Path) -> None:
    place = Place("demo", rank=3)
    with logged(tmp_path, place):
        _log.warning("first")
    path = log_path(tmp_path, 3)
    path.write_text(path.read_text() + '{"time": "2026')  # killed while it wrote
    with logged(tmp_path, place):
        _log.warning("second")
    first, torn, second = path.read_text().splitlines()
    assert torn == '{"time": "2026'
    assert [json.loads(line)["message"] for line in (first, second)] == ["first", "second"]


def test_no_secret_is_written(tmp_path: Path) -> None:
    with logged(tmp_path, Place("demo")):
        address = "https://someone:hunter2@example.org/?token=hunter2"
        _log.warning(
            f"{address} is gone", extra=event("x", uri=address, api_key="hunter2", deep={"hub.token": "hunter2"})
        )
        try:
            raise OSError(f"no answer from {address}")
        except OSError:
            _log.warning("failed", exc_info=True)
    text = log_path(tmp_path, None).read_text()
    assert "hunter2" not in text
    assert "https://***@example.org" in text
    assert "no answer from" in read(tmp_path, None)[1]["traceback"]


def test_files_are_turned_over_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "MAX_BYTES", 20_000)
    with logged(tmp_path, Place("demo", rank=0)):
        for number in range(1000):
            _log.info(f"line {number}")
        _log.info("x" * 100_000)  # one message is bounded as well
    files = sorted((tmp_path / LOGS).iterdir())
    assert [path.name for path in files] == ["rank_00000.jsonl", "rank_00000.jsonl.1", "rank_00000.jsonl.2"]
    assert all(path.stat().st_size <= 20_000 for path in files)
    lines = [json.loads(line) for path in reversed(files) for line in path.read_text().splitlines()]
    numbers = [int(line["message"].split()[1]) for line in lines[:-1]]
    assert numbers == list(range(numbers[0], 1000))  # the newest, none lost between the files
    assert len(lines[-1]["message"]) < 10_000


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_stops_the_log_and_not_the_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = log_path(tmp_path, 0)
    path.parent.mkdir(parents=True)
    path.symlink_to("/dev/full")
    ours, other = train(tmp_path), train(None)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), other.parameters(), strict=True))
    assert capsys.readouterr().err.count("is not written any more") == 1


def test_a_log_that_cannot_be_opened_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "train").write_text("no folder")
    with logged(tmp_path, Place("demo", rank=0)):
        _log.info("nothing comes of this")
    assert "training goes on without it" in caplog.text


def test_what_others_see_stays_as_it_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ours = logging.getLogger("cpl_ray")
    before = (ours.level, ours.propagate, list(ours.handlers))
    with logged(tmp_path, Place("demo")), logged(tmp_path, Place("demo", rank=0)):
        _log.info("for the file")
        _log.warning("for all")
        _log.error("raised too", extra=event("failed"))
    assert [record.getMessage() for record in caplog.records] == ["for all"]
    assert [line["message"] for line in read(tmp_path)] == ["for the file", "for all", "raised too"]
    assert read(tmp_path, None)[0]["rank"] is None
    assert (ours.level, ours.propagate, list(ours.handlers)) == before
