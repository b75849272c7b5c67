"""Training on storage that fails, started in a process of its own: what became of it, printed as JSON.

python -m tests.faults.training full FOLDER       (in a mount namespace of its own; world 2)
python -m tests.faults.training failing FOLDER    (under the library of tests/faults/shim.py; world 1)
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from cpl_ray.config import Config
from cpl_ray.errors import StorageError, UserError
from tests.distributed.launch import run_workers
from tests.distributed.test_resume import make_config, train_once
from tests.faults.mounts import Tmpfs

STEPS = 8
EVERY = (61, 67, 71, 79, 89)  # more than the calls from one checkpoint to the next, or no attempt would come further
ATTEMPTS = 40
LARGE = 1 << 28


def config_of(max_steps: int = STEPS) -> Config:
    return make_config({"zero_stage": 2}, max_steps)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def steps(folder: Path) -> list[int]:
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [record["step"] for record in records if record["kind"] == "train"]


def parts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if ".part" in path.name)


def on_full_storage(place: str) -> dict[str, Any]:
    """Fill the disk up to little more than one checkpoint, train, make room, train on; all ranks."""
    calm = train_once(config_of(), Path(place, "calm"))
    room = Tmpfs(Path(place, "small"))
    rank = dist.get_rank()
    if rank == 0:
        checkpoint = next(Path(place, "calm", "train", "checkpoints").glob("step_*"))
        size = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
        room.resize(int(1.5 * size))
    dist.barrier()
    said = ""
    try:
        train_once(config_of(), room.folder)
    except StorageError as error:
        said = str(error)
    dist.barrier()
    whole = sorted(path.name for path in (room.folder / "train" / "checkpoints").iterdir())
    done = steps(room.folder)
    dist.barrier()
    if rank == 0:
        room.resize(LARGE)
    dist.barrier()
    resumed = train_once(config_of(), room.folder)
    dist.barrier()
    return {
        "said": said,
        "whole": whole,
        "done": done,
        "same": rank > 0 or same(calm, resumed),
        "steps": steps(room.folder),
        "parts": parts(room.folder),
    }


def on_failing_storage(place: str) -> list[dict[str, Any]]:
    """Train while every so many-th write fails, as often as it takes; one rank."""
    calm = train_once(config_of(), Path(place, "calm"))
    return [_attempts(Path(place, f"failing-{every}"), every, calm) for every in EVERY]


def _attempts(folder: Path, every: int, calm: dict[str, torch.Tensor]) -> dict[str, Any]:
    folder.mkdir()
    os.environ |= {"CPL_FAULT_PREFIX": str(folder), "CPL_FAULT_EVERY": str(every)}
    said: list[str] = []
    while len(said) < ATTEMPTS:
        try:
            resumed = train_once(config_of(), folder)
        except (OSError, UserError) as error:
            said.append(f"{type(error).__name__} {error}")
        else:
            break
    else:
        raise AssertionError(f"no attempt came to the end: {said[-3:]}")
    return {"said": said, "same": same(calm, resumed), "steps": steps(folder), "parts": parts(folder)}


if __name__ == "__main__":
    what, where = sys.argv[1:]
    if what == "full":
        Tmpfs(Path(where, "small")).mount(LARGE)  # before the ranks are forked off, so that all see it
        print(json.dumps(run_workers(on_full_storage, 2, where)))
    else:
        print(json.dumps(run_workers(on_failing_storage, 1, where)[0]))
