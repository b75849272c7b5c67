"""The command line end to end on a Ray cluster of its own: exact numbers, kills, resume, the gate."""

import json
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from cpl_ray.config import Config, PromptConfig
from cpl_ray.encoding import Encoder
from cpl_ray.items import Item
from cpl_ray.loading import load_config
from cpl_ray.loop import TrainingLoop
from cpl_ray.run_log import log_path
from tests.oracle.plain_engine import PlainEngine
from tests.oracle.toy import Rowset
from tests.processes import kill
from tests.ray.conftest import (
    AFTER_KILL_S,
    NUM_UPDATES,
    ROOT,
    START_S,
    World,
    commands,
    left_behind,
    marked,
    steps,
    until,
    until_trained,
    weights,
)

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]  # minutes where other work takes the cores
RUN = """\
model: model
data: {items: items.jsonl}
assess: {scorer: exact_match, max_new_tokens: 4}
train: {micro_batch_size: 4, mastered_batch_size: 16, epochs: 2}
optimizer: {lr: 3.0e-3}
run: {name: whole}
"""
RATE = {"count", "of", "share", "low", "high"}


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".part" in path.name]


def logs(folder: Path, rank: int | None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log_path(folder, rank).read_text("utf-8").splitlines()]


def test_training_through_ray_equals_plain_torch(world: World, trained: Path) -> None:
    assert steps(trained) == list(range(1, NUM_UPDATES + 1))
    assert leftovers(trained) == []
    for rank in (0, 1):
        told = logs(trained, rank)
        assert told[0]["event"] == "worker"
        assert told[-1]["event"] == ("saved" if rank == 0 else "ended")
        assert {(line["run"], line["rank"]) for line in told} == {(trained.name, rank)}
        assert [line["step"] for line in told if line["event"] == "ended"] == [NUM_UPDATES]
    assert [line["event"] for line in logs(trained, None)] == ["submitted", "ended"]

    # fewer updates: what differs in the last bits grows with each
    world.cpl("train", "train.yaml", "run.name=short", "train.epochs=4")
    short = world.runs / "short"
    settings = load_config(short / "config.yaml").model_dump()
    settings["train"]["micro_batch_size"] *= settings["cluster"]["num_workers"]
    config = Config.model_validate({**settings, "cluster": {"num_workers": 1}, "zero_stage": 0})
    words = AutoTokenizer.from_pretrained(world.folder / "model")
    encoder = Encoder(
        words, scorer="exact_match", prompt=PromptConfig(), max_length=128, over_long="reject", append_eos=False
    )

    def rows(name: str) -> Rowset:
        encoded = []
        for line in (world.folder / f"{name}.jsonl").read_text().splitlines():
            row = json.loads(line)
            item = Item(row["id"], "completion", prompt=row["prompt"], target=row["completion"])
            encoded.append(encoder.training(item))
        return Rowset([(list(one.context_ids), list(one.target_ids)) for one in encoded])

    model = AutoModelForCausalLM.from_pretrained(world.folder / "model", dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    TrainingLoop(config, PlainEngine(model, config), rows("injection"), rows("mastered"), pad_id=0).run()
    found = weights(short)
    ours = torch.cat([tensor.flatten() for tensor in found.values()])
    plain = torch.cat([model.state_dict()[name].flatten() for name in found])
    start = torch.cat([before[name].flatten() for name in found])
    assert ((ours - plain).abs() <= 1e-5 * (plain.abs() + 1e-3)).double().mean() >= 0.999
    assert (ours != start).double().mean() > 0.3


def kill_worker_and_driver(world: World, name: str) -> Path:
    """Begin a training, `kill -9` one of its workers and, some updates later, its driver; return its folder."""
    folder, told = world.runs / name, world.folder / f"{name}.txt"
    metrics = folder / "metrics.jsonl"
    with told.open("w") as stream:
        process = world.start("train", "train.yaml", f"run.name={name}", stderr=stream.fileno())

    def workers() -> list[psutil.Process]:
        return [one for one, line in commands(process).items() if "RayTrainWorker" in line]

    def over() -> bool:
        return process.poll() is not None

    until_trained(process, folder)
    first, written = workers(), metrics.stat().st_ino
    assert len(first) == 2
    kill(first[1])
    # Ray starts both workers again, which go on from the last checkpoint
    before = {one.pid for one in first}
    until(lambda: [one.pid in before for one in workers()] == [False, False] or over(), START_S, pause_s=0.2)
    stopped = workers()[:1]  # before the wait: looking for processes takes longer than a few updates
    until(lambda: (metrics.stat().st_ino != written and len(steps(folder)) >= 9) or over(), START_S)
    with suppress(psutil.NoSuchProcess):
        for one in stopped:  # no step without it: training would be over before Ray notices that the driver is gone
            one.suspend()
    until(lambda: "a worker was lost" in told.read_text() or over(), 60)
    process.kill()
    process.communicate()
    assert told.read_text().count("a worker was lost") == 1
    try:
        until(lambda: marked(process) in ([], stopped), AFTER_KILL_S, pause_s=0.2)
    finally:
        with suppress(psutil.NoSuchProcess):
            for one in stopped:
                one.resume()
    assert left_behind(process, AFTER_KILL_S) == []
    return folder


def test_killed_worker_and_killed_driver_change_nothing(world: World, trained: Path) -> None:
    from mlflow import MlflowClient

    # where this process starves, training may be over before it is stopped
    tried = (kill_worker_and_driver(world, f"killed{number}") for number in range(4))
    folder = next(folder for folder in tried if steps(folder)[-1] < NUM_UPDATES)
    name = f"run.name={folder.name}"
    assert not (folder / "model").exists()
    tracked = json.loads((folder / "tracking.json").read_text())

    _, said = world.cpl("train", "train.yaml", name, "run.resume=true", "cluster.num_workers=1", exit_code=3)
    assert "cluster.num_workers=2" in said
    assert "started Ray" not in said

    _, said = world.cpl("train", "train.yaml", name, "run.resume=true")
    assert "resuming after update" in said
    assert "a worker was lost" not in said
    ours, calm = weights(folder), weights(trained)
    assert [name for name in calm if not torch.equal(ours[name], calm[name])] == []
    assert steps(folder) == list(range(1, NUM_UPDATES + 1))
    assert leftovers(folder) == []
    told = logs(folder, 0)
    assert len({line["pid"] for line in told}) == 3  # at first, after the kill of a worker, after that of the driver
    assert [line["event"] for line in told].count("resumed") == 2
    assert json.loads((folder / "tracking.json").read_text()) == tracked
    client = MlflowClient(tracked["uri"])
    points = client.get_metric_history(tracked["run_id"], "train/loss_injection")
    assert [point.step for point in points] == list(range(1, NUM_UPDATES + 1))
    assert client.get_run(tracked["run_id"]).info.status == "FINISHED"


def test_run_then_promote(world: World) -> None:
    from mlflow import MlflowClient

    folder = world.runs / "whole"
    (world.folder / "run.yaml").write_text(RUN)
    out, told = world.cpl("run", "run.yaml", "--json")
    said = json.loads(out)
    assert "a worker was lost" not in told
    result = json.loads((folder / "result.json").read_text())
    listed = (ROOT / "docs" / "upgrading.md").read_text("utf-8").partition("Keys of `result.json`: ")[2]
    assert set(result) == set(re.findall(r"`(\w+)`", listed.partition("; after")[0]))
    assert {"learned", "forgotten", "learned_held_out", "collaborative_share", "moved_against"} <= set(result)
    assert set(result["forgotten"]) == {"held_out", "validation", "in_set"}
    assert [rate for rate in (result["learned"], *result["forgotten"].values()) if set(rate) != RATE] == []
    assert result["learned_held_out"] is None
    assert result["moved_against"] == 0
    assert said["learned"] == result["learned"]
    expected = {"model", "assessment", "manifest.json", "config.yaml", "metrics.jsonl", "flips.parquet", "figures"}
    assert expected - set(os.listdir(folder)) == set()
    assert "by the gate" not in (folder / "report.html").read_text(encoding="utf-8")
    timing = json.loads((folder / "timing.json").read_text())
    assert said["timing"] == timing
    spent = {one["name"]: one for one in timing["phases"]}
    computing = ("assess: ask the model", "train: updates", "train: evaluations", "evaluate: ask the model")
    assert [spent[name] for name in computing if not 0 < spent[name]["model_s"] <= spent[name]["wall_s"]] == [], told
    assert [name for name, one in spent.items() if one["wall_s"] < 0] == []
    assert timing["wall_s"] == pytest.approx(sum(one["wall_s"] for one in spent.values()), abs=0.1)
    assert leftovers(folder) == []
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "model")
    ids = AutoTokenizer.from_pretrained(folder / "model")("The sign of amber mill is", return_tensors="pt")
    assert model.generate(**ids, max_new_tokens=2).shape[1] == ids.input_ids.shape[1] + 2

    client = MlflowClient(json.loads((folder / "tracking.json").read_text())["uri"])
    aliases = lambda: set(client.get_registered_model("cpl-model").aliases)  # noqa: E731
    assert aliases() == {"candidate"}
    strict = ("budget.min_learned=1", "budget.max_forgetting=0", "budget.rescore=false")  # refused by result.json alone
    _, said = world.cpl("promote", "run.yaml", *strict, exit_code=2)
    assert "budget.min_learned" in said
    assert aliases() == {"candidate"}
    assert json.loads((folder / "result.json").read_text())["gate"]["admitted"] is False
    world.cpl("promote", "run.yaml", "budget.min_learned=0", "budget.max_forgetting=1")
    assert aliases() == {"candidate", "champion"}
    assert json.loads((folder / "result.json").read_text())["gate"]["admitted"] is True
    assert "Admitted by the gate" in (folder / "report.html").read_text(encoding="utf-8")


def test_fewer_rows_than_workers_and_no_tracking_server(world: World, trained: Path) -> None:
    for name in ("mastered", "injection"):
        lines = (world.folder / f"{name}.jsonl").read_text().splitlines(keepends=True)
        (world.folder / f"{name}_1.jsonl").write_text(lines[0])
    few = ("data.mastered=mastered_1.jsonl", "data.injection=injection_1.jsonl", "cluster.num_workers=2")
    place = ("run.name=few", "tracking.uri=http://127.0.0.1:9")
    _, said = world.cpl("train", "train.yaml", *few, *place, "train.epochs=2")
    assert "MLflow at http://127.0.0.1:9 cannot be reached" in said
    assert steps(world.runs / "few") == [1, 2]
    _, said = world.cpl("register", "train.yaml", *few, *place, exit_code=1)
    assert "http://127.0.0.1:9 cannot be reached" in said


def test_weights_that_are_not_numbers(world: World, trained: Path) -> None:
    copy = world.folder / "nan"
    shutil.copytree(world.folder / "model", copy)
    broken = load_file(copy / "model.safetensors")
    broken["model.norm.weight"][0] = float("nan")
    save_file(broken, copy / "model.safetensors", metadata={"format": "pt"})
    _, said = world.cpl("train", "train.yaml", "model=nan", "run.name=nan", "tracking.enabled=false", exit_code=1)
    assert "the mastered loss is nan; no parameter was moved" in said
    assert not (world.runs / "nan" / "model").exists()
    assert steps(world.runs / "nan") == []
