"""Sweeps through Ray Tune: kill -9 and resume, trials equal to their configuration run alone, early stopping."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from cpl_ray.loading import load_config
from tests.processes import kill
from tests.ray.conftest import AFTER_KILL_S, START_S, World, commands, left_behind, steps, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]  # minutes where other work takes the cores
SWEEP = """\
model: model
data: {items: items.jsonl}
split: {mastered_validation: 0.25, mastered_test: 0.25}
assess: {scorer: exact_match, max_new_tokens: 4}
train: {micro_batch_size: 4, mastered_batch_size: 8, epochs: 10, checkpoint_every: 2}
optimizer: {lr: 1.0e-3}
budget: {max_forgetting: 0.5, min_learned: 0.2}
search:
  space:
    train.mastered_size: [4, 10]
  max_concurrent_trials: 1
"""
STOPPING = """\
search:
  space:
    optimizer.lr: [3.0e-3, 1.0e-6, 2.0e-6]
  early_stopping: true
  grace_evaluations: 1
  reduction_factor: 2
"""
# runs a sweep in a Ray session that outlives it, and prints what the sweep has left there
INSIDE = """\
import json, ray, time
from cpl_ray.loading import load_config
from cpl_ray.rundir import RunDir
from pipelines.session import ray_session
from pipelines.sweeping import sweep
from pipelines.voice import Voice
say = Voice()
config = load_config("stopping.yaml", ["run.name=stopping", "budget.max_forgetting=1"])  # what learns more goes on
with ray_session(config, say, dashboard=True):
    run = RunDir.create(config)
    sweep(config, run, say)
    left = [group for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"]
    free, slots, deadline = 0, ray.cluster_resources()["CPU"], time.monotonic() + 60
    while free < slots and time.monotonic() < deadline:  # nodes tell what is free now and then
        free = ray.available_resources().get("CPU", 0)
        time.sleep(0.1)
    print(json.dumps({"left": left, "free": free, "all": slots}, default=str))
"""


def book(folder: Path) -> dict[str, Any]:
    path = folder / "sweep.json"
    return json.loads(path.read_text()) if path.exists() else {"trials": []}


def children(world: World, sweep: str) -> tuple[Any, list[Any]]:
    """Return the MLflow run of a sweep and those of its trials."""
    client = MlflowClient(f"sqlite:///{world.runs / 'mlflow.db'}")
    tracked = json.loads((world.runs / sweep / "tracking.json").read_text())
    runs = client.search_runs([tracked["experiment_id"]], f"tags.`mlflow.parentRunId` = '{tracked['run_id']}'")
    return client.get_run(tracked["run_id"]), sorted(runs, key=lambda run: run.info.run_name)


def test_killed_and_resumed_sweep_is_the_same_sweep(world: World) -> None:
    (world.folder / "sweep.yaml").write_text(SWEEP)
    folder = world.runs / "sweep"
    everything = ("budget.max_forgetting=1", "budget.min_learned=0")  # so that there is a choice whatever comes out
    process = world.start("sweep", "sweep.yaml", "run.name=sweep", *everything)
    # a trial is done, another is in the middle of its training with a checkpoint behind it
    until(lambda: any((folder / "trials").glob("001/train/checkpoints/step_*")) or process.poll() is not None, START_S)
    process.kill()
    process.communicate()
    assert left_behind(process, AFTER_KILL_S) == []
    before = book(folder)
    finished = [trial for trial in before["trials"] if trial["state"] == "finished"]
    measured = [trial for trial in before["trials"] if (folder / trial["run_dir"] / "result.json").exists()]
    broken = [trial for trial in before["trials"] if trial["state"] == "running" and trial not in measured]
    assert finished
    assert broken
    written = {trial["index"]: (folder / trial["run_dir"] / "result.json").stat().st_mtime_ns for trial in finished}
    _, said = world.cpl("sweep", "sweep.yaml", "run.name=sweep", "run.resume=true", "search.seeds=[5]", exit_code=3)
    assert "search.seeds was [], now [5]" in said

    out, said = world.cpl("sweep", "sweep.yaml", "run.name=sweep", "run.resume=true", "--json", *everything)
    after = json.loads(out)
    assert f"{len(measured)} of them done before" in said
    assert [trial["state"] for trial in after["trials"]] == ["finished"] * 2
    # nothing that was finished was done again or changed
    for trial in finished:
        assert after["trials"][trial["index"]] == trial
        assert (folder / trial["run_dir"] / "result.json").stat().st_mtime_ns == written[trial["index"]]

    # a trial that was broken and continued equals its configuration run alone
    index = broken[0]["index"]
    config = folder / "trials" / f"{index:03d}" / "config.yaml"
    world.cpl("run", str(config), f"run.dir={world.runs}", "run.name=alone", "tracking.enabled=false")
    ours, alone = (
        load_file(place / "model" / "model.safetensors")
        for place in (folder / f"trials/{index:03d}", world.runs / "alone")
    )
    assert [name for name in alone if not torch.equal(ours[name], alone[name])] == []
    result = json.loads((world.runs / "alone" / "result.json").read_text())
    for rate in ("learned", "forgotten"):
        assert result[rate] == json.loads((config.parent / "result.json").read_text())[rate]

    # nested mastered sets, one digest for each size
    digests = {trial["mastered_size"]: trial["mastered_sha256"] for trial in after["trials"]}
    assert sorted(digests) == [4, 10]
    assert len(set(digests.values())) == 2
    assert [one["mastered_size"] for one in after["by_size"]] == [4, 10]

    # MLflow: one parent, one child for each trial, all closed; no step twice
    parent, runs = children(world, "sweep")
    assert parent.info.status == "FINISHED"
    assert [run.info.run_name for run in runs] == ["000", "001"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    client = MlflowClient(f"sqlite:///{world.runs / 'mlflow.db'}")
    for run in runs:
        points = [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss_injection")]
        assert sorted(points) == list(range(1, len(points) + 1))
    assert not list(folder.glob(".tune*"))

    # what was chosen is ready to be run
    chosen = load_config(folder / "best.yaml")
    point = next(one for one in after["points"] if one["point_id"] == after["best"]["point_id"])["point"]
    assert chosen.train.mastered_size == point["train.mastered_size"]
    assert chosen.data.assessment == str(folder)


def test_a_trial_that_loses_its_controller_goes_on(world: World) -> None:
    (world.folder / "lost.yaml").write_text(SWEEP)
    folder = world.runs / "lost"
    one = (
        "search.space={train.mastered_size: [10]}",
        "budget.max_forgetting=1",
        "budget.min_learned=0",
        "train.epochs=20",
    )
    process = world.start("sweep", "lost.yaml", "run.name=lost", *one)
    until(lambda: any((folder / "trials").glob("000/train/checkpoints/step_*")) or process.poll() is not None, START_S)
    (victim,) = [one for one, line in commands(process).items() if "TrainController" in line]
    kill(victim)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert "trial 000: a process of it was lost; it goes on" in said
    assert [trial["state"] for trial in book(folder)["trials"]] == ["finished"]
    trained = steps(folder / "trials" / "000")
    assert trained == list(range(1, len(trained) + 1))
    parent, (child,) = children(world, "lost")
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    client = MlflowClient(f"sqlite:///{world.runs / 'mlflow.db'}")
    points = client.get_metric_history(child.info.run_id, "train/loss_injection")
    assert sorted(point.step for point in points) == trained
    assert left_behind(process) == []


def test_early_stopping_frees_what_stopped_trials_held(world: World) -> None:
    (world.folder / "stopping.yaml").write_text(SWEEP.split("search:")[0] + STOPPING)
    done = subprocess.run(
        [sys.executable, "-c", INSIDE],
        cwd=world.folder,
        env=world.environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    left = json.loads(done.stdout.strip().splitlines()[-1])
    assert left["left"] == []
    assert left["free"] == pytest.approx(left["all"])
    content = book(world.runs / "stopping")
    ended = [trial["state"] for trial in content["trials"]]
    assert set(ended) == {"finished", "stopped"}
    stopped = [trial for trial in content["trials"] if trial["state"] == "stopped"]
    # what was stopped is told as of its last evaluation, has no model, and is not compared with the others
    for trial in stopped:
        assert trial["learned"]["of"] > 0
        assert trial["forgotten"]["held_out"] is None
        assert not (world.runs / "stopping" / trial["run_dir"] / "model").exists()
    assert {one["point_id"] for one in content["points"]} == {
        trial["point_id"] for trial in content["trials"] if trial["state"] == "finished"
    }
    _, runs = children(world, "stopping")
    by_name = {run.info.run_name: (run.info.status, run.data.tags["cpl_ray.state"]) for run in runs}
    expected = {"stopped": ("KILLED", "stopped_early"), "finished": ("FINISHED", "finished")}
    assert by_name == {f"{index:03d}": expected[state] for index, state in enumerate(ended)}


def test_more_trials_at_once_than_fit_are_refused(world: World) -> None:
    (world.folder / "sweep.yaml").write_text(SWEEP)
    _, said = world.cpl("sweep", "sweep.yaml", "run.name=many", "search.max_concurrent_trials=4000", exit_code=3)
    assert "search.max_concurrent_trials is 4000, but the cluster has" in said
    assert "ask for at most" in said
