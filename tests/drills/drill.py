"""One drill: a run of the whole job is hit at a random moment, continued, and held against an undisturbed one."""

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from mlflow import MlflowClient

from tests.drills.temporary import variables
from tests.ray.conftest import AFTER_KILL_S, World, commands, left_behind, marked, steps, weights

RUN = """\
model: model
data: {items: items.jsonl}
split: {mastered_validation: 0.3, mastered_test: 0.3}
assess: {scorer: exact_match, max_new_tokens: 4}
train: {micro_batch_size: 2, mastered_batch_size: 8, refresh: 2, epochs: 4, checkpoint_every: 2}
evaluate: {every: 4}
optimizer: {lr: 1.0e-4, weight_decay: 0.1}
cluster: {num_workers: 2}
zero_stage: 2
"""
TEMPORARY = "temporary"
"""Below the world: temporary files of the undisturbed run."""
TIMEOUT_S = 900
ATTEMPTS = 4


def _named(part: str) -> Callable[[Any], list[psutil.Process]]:
    return lambda process: [one for one, line in commands(process).items() if part in line]


def _driver(process: Any) -> list[psutil.Process]:
    return [psutil.Process(process.pid)]


KINDS: dict[str, tuple[Callable[[Any], list[psutil.Process]], int]] = {
    "kill -9, a worker of training": (_named("RayTrainWorker"), signal.SIGKILL),
    "kill -9, Ray Train's controller": (_named("TrainController"), signal.SIGKILL),
    "kill -9, a scoring actor": (_named("MapWorker"), signal.SIGKILL),
    "kill -9, the raylet": (_named("raylet/raylet"), signal.SIGKILL),
    "kill -9, Ray's control store": (_named("gcs_server"), signal.SIGKILL),
    "kill -9, the driver": (_driver, signal.SIGKILL),
    "SIGTERM to the driver": (_driver, signal.SIGTERM),
    "SIGINT to the driver": (_driver, signal.SIGINT),
}


@dataclass(frozen=True)
class Drill:
    """What was done and what came of it."""

    kind: str
    at_s: float
    """Seconds after the start of the command."""
    found: bool
    """Whether a process of that kind lived at that moment, or came to live later and was hit then."""
    stage: str
    """What the run folder held at that moment."""
    updates: int
    """Updates in metrics.jsonl at that moment."""
    exit_codes: list[int]
    """Of the command and of each continuation."""
    faults: list[str]
    """What differs from an undisturbed run; empty: survived."""
    seconds: float
    messages: list[str] = field(default_factory=list)
    """The last line that each failed command printed."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def undisturbed(world: World, name: str) -> dict[str, tuple[float, float]]:
    """Run the whole job and return when processes of each kind were first and last seen, in seconds after its start."""
    places = variables(world.folder / TEMPORARY)
    process = world.start("run", "drill.yaml", f"run.name={name}", stderr=subprocess.PIPE, **places)
    started = time.monotonic()
    seen: dict[str, tuple[float, float]] = {}
    while process.poll() is None:
        now = time.monotonic() - started
        for kind, (find, _) in KINDS.items():
            if find(process):
                seen[kind] = (seen.get(kind, (now,))[0], now)
        time.sleep(0.1)
    out, said = process.communicate()
    assert process.returncode == 0, out + said
    return seen


def stage_of(folder: Path) -> str:
    """Return how far a run has come by what lies in its folder."""
    for name, stage in (
        ("registered.json", "registered"),
        ("result.json", "registering"),
        ("model", "evaluating"),
        ("metrics.jsonl", "training"),
        ("assessment", "training"),
        ("config.yaml", "assessing"),
    ):
        if (folder / name).exists():
            return stage
    return "starting"


def run_drill(world: World, name: str, kind: str, at_s: float, calm: Path) -> Drill:
    """Start the whole job, hit one process of a kind after `at_s` seconds, continue until it is done, and compare."""
    find, number = KINDS[kind]
    folder = world.runs / name
    started = time.monotonic()
    process = world.start("run", "drill.yaml", f"run.name={name}")
    hit = None
    while process.poll() is None and hit is None and time.monotonic() - started < TIMEOUT_S:
        if time.monotonic() - started >= at_s and (targets := find(process)):
            hit = random.Random(f"{name} {kind}").choice(targets)
            stage, updates = stage_of(folder), len(steps(folder))
            with suppress(psutil.NoSuchProcess):  # it has just ended by itself
                hit.send_signal(number)
        time.sleep(0.02)
    if hit is None:
        stage, updates = stage_of(folder), len(steps(folder))
    exit_codes = [_ended(process)]
    faults = [f"left behind: {line}" for line in left_behind(process, AFTER_KILL_S)]
    while exit_codes[-1] != 0 and len(exit_codes) < ATTEMPTS:
        resume = ["run.resume=true"] if (folder / "config.yaml").exists() else []
        process = world.start("run", "drill.yaml", f"run.name={name}", *resume)
        exit_codes.append(_ended(process))
        faults += [f"left behind: {line}" for line in left_behind(process, AFTER_KILL_S)]
    faults += differences(folder, calm) if exit_codes[-1] == 0 else ["could not be continued"]
    seconds = round(time.monotonic() - started, 1)
    return Drill(kind, round(at_s, 1), hit is not None, stage, updates, exit_codes, faults, seconds)


def _ended(process: Any) -> int:
    return ended(process)[0]


def ended(process: Any) -> tuple[int, str]:
    """Wait for a command and return its exit code and stderr; one that hangs is killed with all, and counts as -1."""
    try:
        _, said = process.communicate(timeout=TIMEOUT_S)
    except Exception:  # subprocess.TimeoutExpired, or a pipe that a killed child keeps open
        for one in [*marked(process), psutil.Process(process.pid)]:
            one.kill()
        process.wait()
        return -1, ""
    return int(process.returncode), said


def differences(folder: Path, calm: Path) -> list[str]:
    """Return how a run's results differ from those of the undisturbed one."""
    faults = []
    ours, theirs = weights(folder), weights(calm)
    if changed := [name for name in theirs if not torch.equal(ours[name], theirs[name])]:
        faults.append(f"{len(changed)} tensors of the model differ, e.g. {changed[0]}")
    mine, other = (json.loads((place / "result.json").read_text()) for place in (folder, calm))
    faults += [f"result.json: {key} differs" for key in ("learned", "forgotten") if mine[key] != other[key]]
    if steps(folder) != steps(calm):
        faults.append(f"metrics.jsonl has updates {steps(folder)}")
    if parts := [path.name for path in folder.rglob("*") if ".part" in path.name]:
        faults.append(f"unfinished files: {', '.join(parts)}")
    tracked = json.loads((folder / "tracking.json").read_text())
    client = MlflowClient(tracked["uri"])
    points = [point.step for point in client.get_metric_history(tracked["run_id"], "train/loss_injection")]
    if sorted(points) != steps(calm):
        faults.append(f"MLflow has updates {sorted(points)}")
    runs = [run for run in client.search_runs([tracked["experiment_id"]]) if run.info.run_name == folder.name]
    if [run.info.status for run in runs] != ["FINISHED"]:
        faults.append(f"MLflow has runs {[run.info.status for run in runs]}")
    versions = [one for one in client.search_model_versions("name='cpl-model'") if one.run_id == tracked["run_id"]]
    if len(versions) != 1:
        faults.append(f"{len(versions)} versions of the model are registered")
    return faults
