"""The same small training again and again in one process, every tenth time also a run tracked in MLflow, as a driver
does it: does its memory grow, or what it holds open?"""

import argparse
import gc
import math
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from cpl_ray.config import Config
from cpl_ray.engine import ZeroEngine
from cpl_ray.loop import TrainingLoop
from cpl_ray.metrics_log import read_records
from cpl_ray.recorder import Recorder
from cpl_ray.run_log import Place, logged
from cpl_ray.tracking import Tracker
from tests.load.flat import judged
from tests.load.tracking import values
from tests.oracle.toy import Rowset, toy_items, toy_model
from tests.tracking.runs import make_config, with_config

TRACKED_EVERY = 10
"""Rounds from one tracked run to the next."""


def resident_bytes() -> int:
    """Return the memory of this process that is in RAM now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def train_once(folder: Path, number: int) -> None:
    """Train a toy model for 20 updates on DeepSpeed, with guard, checkpoints, metrics and log; then resume it."""
    sets = Rowset(toy_items(40, seed=2)), Rowset(toy_items(40, seed=1))
    for max_steps in (10, 20):
        train = {"micro_batch_size": 8, "mastered_batch_size": 8, "epochs": 4, "max_steps": max_steps}
        train["checkpoint_every"] = 5
        settings = {"model": "toy", "train": train, "guard": {"mode": "adapt"}, "zero_stage": 2}
        config = Config.model_validate(settings)
        engine, place = ZeroEngine(toy_model(seed=number), config), Place(folder.name, rank=0)
        with logged(folder, place):
            loop = TrainingLoop(config, engine, *sets, pad_id=0, run_folder=folder, zero_stage=2, place=place)
            assert loop.run().step == max_steps
        engine.close()


def track_once(folder: Path, number: int) -> None:
    """Follow a run's records into the store of `folder` until it is finished, as the driver of a run does."""
    place = folder / f"tracked-{number}"
    place.mkdir()
    config = with_config(make_config(folder), run={"name": place.name, "dir": str(folder)})
    tracker = Tracker.open(config, place, resume=False)
    tracker.log_params(config.model_dump(mode="json"))
    recorder = Recorder(place / "metrics.jsonl", 0)
    tracker.follow(place / "metrics.jsonl", poll_s=0.05)
    for step in range(1, 21):
        recorder.write("train", step, values(step))
    recorder.close()
    tracker.log_metrics({"final/learned": 1.0}, step=20)
    tracker.finish(timeout_s=60.0)
    assert (tracker.lost, tracker.missing) == (None, 0)
    shutil.rmtree(place)


def run(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Train and track until the minutes are over; fit lines through what each round left behind."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=0, world_size=1)
    recorder, begun, number = Recorder(folder / "soak.jsonl", 0), time.monotonic(), 0
    store = folder / "tracked"
    store.mkdir()
    try:
        while time.monotonic() - begun < chosen.minutes * 60:
            place = Path(tempfile.mkdtemp(dir=folder))
            train_once(place, number)
            shutil.rmtree(place)
            if number % TRACKED_EVERY == 0:
                track_once(store, number)
            number += 1
            gc.collect()  # cycles are freed at moments that depend on what came before: a round ends with none
            held = {"open_files": float(len(os.listdir("/proc/self/fd"))), "objects": float(len(gc.get_objects()))}
            memory = {"resident_bytes": float(resident_bytes()), "elapsed_s": time.monotonic() - begun}
            recorder.write("soak", number, {**memory, **held})
    finally:
        recorder.close()
        dist.destroy_process_group()
    done: dict[str, Any] = {"rounds": number, "updates": number * 20, "tracked_runs": math.ceil(number / TRACKED_EVERY)}
    done["minutes"] = round((time.monotonic() - begun) / 60, 2)
    return done | judged(read_records(folder / "soak.jsonl", "soak"), chosen.minutes)
