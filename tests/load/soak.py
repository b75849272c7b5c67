"""The same small training again and again in one process: does its memory grow, or what it holds open?"""

import argparse
import gc
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from cpl_ray.config import Config
from cpl_ray.engine import ZeroEngine
from cpl_ray.loop import TrainingLoop
from cpl_ray.metrics_log import Record, read_records
from cpl_ray.recorder import Recorder
from cpl_ray.run_log import Place, logged
from tests.oracle.toy import Rowset, toy_items, toy_model

SETTLED = 1 / 3
"""Part of the time that is not counted: allocators and caches fill up first."""
ALLOWED_MIB_PER_HOUR = 60.0
"""A run of a day may grow by so much an hour at most; what is measured over minutes is no finer than this."""
ALLOWED_BYTES_PER_ROUND = 64 << 10


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
        values = {"model": "toy", "train": train, "guard": {"mode": "adapt"}, "zero_stage": 2}
        config = Config.model_validate(values)
        engine, place = ZeroEngine(toy_model(seed=number), config), Place(folder.name, rank=0)
        with logged(folder, place):
            loop = TrainingLoop(config, engine, *sets, pad_id=0, run_folder=folder, zero_stage=2, place=place)
            assert loop.run().step == max_steps
        engine.close()


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the least-squares line through (x, y)."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def settled(records: Sequence[Record]) -> list[Record]:
    """Return the records after the first third."""
    return list(records[int(len(records) * SETTLED) :])


def run(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Train until the minutes are over; fit a line through the memory of each round."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=0, world_size=1)
    recorder, begun, number = Recorder(folder / "soak.jsonl", 0), time.monotonic(), 0
    try:
        while time.monotonic() - begun < chosen.minutes * 60:
            place = Path(tempfile.mkdtemp(dir=folder))
            train_once(place, number)
            shutil.rmtree(place)
            number += 1
            gc.collect()  # cycles are freed at moments that depend on what came before: a round ends with none
            held = {"open_files": float(len(os.listdir("/proc/self/fd"))), "objects": float(len(gc.get_objects()))}
            memory = {"resident_bytes": float(resident_bytes()), "elapsed_s": time.monotonic() - begun}
            recorder.write("soak", number, {**memory, **held})
    finally:
        recorder.close()
        dist.destroy_process_group()
    records = settled(read_records(folder / "soak.jsonl", "soak"))
    if len(records) < 3:
        return {"rounds": number, "faults": [f"only {number} rounds in {chosen.minutes:g} minutes: give it more"]}

    def over(key: str, x: str | None = None) -> float:
        return slope([(r.values[x] if x else float(r.step), r.values[key]) for r in records])

    hourly = over("resident_bytes", "elapsed_s") * 3600 / 2**20
    each = over("resident_bytes")
    faults = []
    if hourly > ALLOWED_MIB_PER_HOUR and each > ALLOWED_BYTES_PER_ROUND:
        faults.append(f"memory grows by {hourly:.1f} MiB an hour, {each / 1024:.1f} KiB a round")
    if over("open_files") > 0.01:
        faults.append(f"open files grow by {over('open_files'):.2f} a round")
    return {
        "minutes": round((time.monotonic() - begun) / 60, 2),
        "rounds": number,
        "updates": number * 20,
        "resident_mib": [round(record.values["resident_bytes"] / 2**20, 1) for record in (records[0], records[-1])],
        "mib_per_hour": round(hourly, 2),
        "kib_per_round": round(each / 1024, 2),
        "objects_per_round": round(over("objects"), 2),
        "open_files": [records[0].values["open_files"], records[-1].values["open_files"]],
        "faults": faults,
    }
