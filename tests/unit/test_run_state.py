"""Schedules, the metrics recorder across a resume, and which settings a resumed run may change."""

import json
from pathlib import Path
from typing import Any

import pytest

from cpl_ray.config import Config
from cpl_ray.errors import ResumeError
from cpl_ray.recorder import Recorder
from cpl_ray.resume import check_same_job
from cpl_ray.schedule import learning_rate


def test_schedules_by_hand() -> None:
    def rates(schedule: str, warmup: int = 0) -> list[float]:
        return [learning_rate(2.0, schedule, step, 4, warmup) for step in range(4)]

    assert rates("constant") == [2.0] * 4
    assert rates("linear") == [2.0, 1.5, 1.0, 0.5]
    assert rates("cosine") == pytest.approx([2.0, 1.70710678, 1.0, 0.29289322])
    assert rates("constant", warmup=2) == [1.0, 2.0, 2.0, 2.0]
    assert rates("linear", warmup=2) == [1.0, 2.0, 2.0, 1.0]


def test_recorder_keeps_what_the_checkpoint_knows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = Recorder(path, 0)
    for step in range(1, 6):
        first.write("train", step, {"loss": float(step)})
    first.close()
    path.write_text(path.read_text() + '{"step": 6, "ki')  # torn by a crash
    again = Recorder(path, 3)
    again.write("train", 4, {"loss": 40.0})
    again.close()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r["step"], r["loss"]) for r in records] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]
    Recorder(path, 0).close()
    assert path.read_text() == ""
    Recorder(None, 0).write("train", 1, {})


def make(**top: Any) -> Config:
    return Config.model_validate({"model": "m", **top})


def test_resume_may_change_only_what_changes_no_number() -> None:
    check_same_job(make(), make(run={"resume": True}, budget={"max_forgetting": 0.5}, cluster={"max_failures": 9}))
    check_same_job(make(train={"epochs": 2}), make(train={"epochs": 5}))
    with pytest.raises(ResumeError, match=r"optimizer\.lr was 1e-05, now 0\.1"):
        check_same_job(make(), make(optimizer={"lr": 0.1}))
    with pytest.raises(ResumeError, match=r"train\.epochs"):
        check_same_job(make(train={"schedule": "linear"}), make(train={"schedule": "linear", "epochs": 5}))
    with pytest.raises(ResumeError, match="zero_stage"):
        check_same_job(make(), make(zero_stage=3))
