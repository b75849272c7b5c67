"""Start a function on several gloo processes, with a hang timeout that ends them all."""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _entry(rank: int, world_size: int, folder: str, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size), "DS_ACCELERATOR": "cpu"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    torch.save(fn(*args), f"{folder}/result_{rank}")
    dist.barrier()
    dist.destroy_process_group()


def run_workers(fn: Callable[..., Any], world_size: int, *args: Any, timeout_s: float = 240) -> list[Any]:
    """Run `fn(*args)` on every rank and return the results by rank.

    Raises:
        AssertionError: a process failed (its traceback is printed) or hung longer than `timeout_s`.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        context = mp.spawn(_entry, (world_size, folder, fn, args), nprocs=world_size, join=False)
        assert context is not None
        deadline = time.monotonic() + timeout_s
        try:
            while not context.join(timeout=1):
                assert time.monotonic() < deadline, f"{fn.__name__} hangs on {world_size} ranks for {timeout_s} s"
        finally:
            for process in context.processes:
                process.kill()
        paths = [Path(folder, f"result_{rank}") for rank in range(world_size)]
        return [torch.load(path, weights_only=True) for path in paths]
