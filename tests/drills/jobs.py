"""The jobs that drills hit, the stages they go through, and how one that was hit is held against an undisturbed one."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.ray.conftest import steps, weights

_BOTH = """\
model: model
data: {items: items.jsonl}
split: {mastered_validation: 0.3, mastered_test: 0.3}
assess: {scorer: exact_match, max_new_tokens: 4}
train: {micro_batch_size: 2, mastered_batch_size: 8, refresh: 2, epochs: 4, checkpoint_every: 2}
evaluate: {every: 4}
"""
RUN = f"""\
{_BOTH}\
optimizer: {{lr: 1.0e-4, weight_decay: 0.1}}
cluster: {{num_workers: 2}}
zero_stage: 2
"""
SWEEP = f"""\
{_BOTH}\
optimizer: {{weight_decay: 0.1}}
budget: {{max_forgetting: 1, min_learned: 0}}
search:
  space:
    optimizer.lr: [1.0e-4, 3.0e-4]
"""
ENDED = "ended"
_TOLD = ("index", "point", "seed", "state", "learned", "forgotten", "steps", "mastered_sha256")


@dataclass(frozen=True)
class Job:
    """A verb and what is known of it."""

    verb: str
    text: str
    """Its configuration."""
    stage: Callable[[Path], str]
    """How far it has come by what lies in its folder; `ENDED` once the last is written."""
    updating: str
    """The stage in which models are updated."""
    compare: Callable[[Path, Path], list[str]]
    """What differs between its folder, which knows its MLflow run, and that of an undisturbed one."""

    @property
    def config(self) -> str:
        return f"drill-{self.verb}.yaml"

    def updates(self, folder: Path) -> int:
        """Return the updates in metrics.jsonl, of all trials together."""
        return sum(len(steps(place)) for place in (folder, *sorted(folder.glob("trials/*"))))

    def differences(self, folder: Path, calm: Path) -> list[str]:
        """Return what differs between its folder and that of an undisturbed one."""
        return self.compare(folder, calm) if (folder / "tracking.json").exists() else ["MLflow has no run"]

    def done(self, folder: Path) -> bool:
        """Tell whether a command that ended with 0 has done all: in a sweep a trial may have failed."""
        return "failed" not in [trial["state"] for trial in _book(folder)["trials"]]


def _run_stage(folder: Path) -> str:
    for name, stage in (
        ("registered.json", ENDED),
        ("result.json", "registering"),
        ("model", "evaluating"),
        ("assessment", "training"),
        ("config.yaml", "assessing"),
    ):
        if (folder / name).exists():
            return stage
    return "starting"


def _sweep_stage(folder: Path) -> str:
    if (folder / "trials").exists():
        return "trials" if _book(folder).get("state") != "finished" else ENDED
    return "assessing" if (folder / "config.yaml").exists() else "starting"


def _book(folder: Path) -> dict[str, Any]:
    path = folder / "sweep.json"
    return dict(json.loads(path.read_text())) if path.exists() else {"trials": []}


def _run_differences(folder: Path, calm: Path) -> list[str]:
    faults = _of_training(folder, calm)
    mine, other = (json.loads((place / "result.json").read_text()) for place in (folder, calm))
    faults += [f"result.json: {key} differs" for key in ("learned", "forgotten") if mine[key] != other[key]]
    client, run, found = _tracked(folder)
    faults += found + _points(client, run, calm)
    versions = [one for one in client.search_model_versions("name='cpl-model'") if one.run_id == run.info.run_id]
    if len(versions) != 1:
        faults.append(f"{len(versions)} versions of the model are registered")
    return faults + _unfinished(folder)


def _sweep_differences(folder: Path, calm: Path) -> list[str]:
    mine, other = _book(folder), _book(calm)
    faults = []
    for ours, theirs in zip(mine["trials"], other["trials"], strict=True):
        faults += [f"trial {ours['index']}: {key} differs" for key in _TOLD if ours[key] != theirs[key]]
        faults += _of_training(folder / ours["run_dir"], calm / theirs["run_dir"])
    if mine["best"] != other["best"] or mine["state"] != "finished":
        faults.append(f"sweep.json: {mine['state']}, best is {mine['best']}")
    client, run, found = _tracked(folder)
    faults += found
    asked = f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    children = sorted(client.search_runs([run.info.experiment_id], asked), key=lambda one: str(one.info.run_name))
    names = [(one.info.run_name, one.info.status) for one in children]
    if names == [(Path(trial["run_dir"]).name, "FINISHED") for trial in other["trials"]]:
        for child in children:
            faults += _points(client, child, calm / "trials" / str(child.info.run_name))
    else:
        faults.append(f"MLflow has runs {names} of trials")
    return faults + _unfinished(folder)


def _of_training(folder: Path, calm: Path) -> list[str]:
    """Return what differs in model and updates."""
    faults = []
    ours, theirs = weights(folder), weights(calm)
    if changed := [name for name in theirs if not torch.equal(ours[name], theirs[name])]:
        faults.append(f"{len(changed)} tensors of the model in {folder.name} differ, e.g. {changed[0]}")
    if steps(folder) != steps(calm):
        faults.append(f"metrics.jsonl of {folder.name} has updates {steps(folder)}")
    return faults


def _tracked(folder: Path) -> tuple[MlflowClient, Run, list[str]]:
    """Return the MLflow run of a folder, and what is wrong with it."""
    tracked = json.loads((folder / "tracking.json").read_text())
    client = MlflowClient(tracked["uri"])
    runs = [run for run in client.search_runs([tracked["experiment_id"]]) if run.info.run_name == folder.name]
    states = [run.info.status for run in runs]
    faults = [] if states == ["FINISHED"] else [f"MLflow has runs {states}"]
    return client, client.get_run(tracked["run_id"]), faults


def _points(client: MlflowClient, run: Run, calm: Path) -> list[str]:
    """Return what is wrong with the points of an MLflow run: one is missing, or there twice."""
    points = [point.step for point in client.get_metric_history(run.info.run_id, "train/loss_injection")]
    return [] if sorted(points) == steps(calm) else [f"MLflow has updates {sorted(points)} of {run.info.run_name}"]


def _unfinished(folder: Path) -> list[str]:
    left = [path.name for path in folder.rglob("*") if ".part" in path.name or path.name.startswith(".tune")]
    return [f"unfinished files: {', '.join(left)}"] if left else []


RUN_JOB = Job("run", RUN, _run_stage, "training", _run_differences)
SWEEP_JOB = Job("sweep", SWEEP, _sweep_stage, "trials", _sweep_differences)
