"""Start a function on several gloo processes, with a hang timeout that ends them all.

Every launch has processes of its own, so that no test sees what another left in DeepSpeed or torch. They are forks of
one server that has done the imports, which would otherwise take longer than most tests.
"""

import multiprocessing as mp
import os
import tempfile
import time
from collections.abc import Callable
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

IMPORTED_ONCE = [
    "torch",
    "transformers.models.llama.modeling_llama",
    "transformers.models.qwen2.modeling_qwen2",
    "peft",
    "cpl_ray.engine",
    "cpl_ray.loop",
]
FIXED = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


def _entry(rank: int, world_size: int, folder: str, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    torch.save(fn(*args), f"{folder}/result_{rank}")
    dist.barrier()
    dist.destroy_process_group()


def _serve() -> None:
    """Start the server of forks unless it runs; it ends with this process."""
    before = dict(os.environ)
    os.environ |= FIXED  # DeepSpeed reads its accelerator when it is imported, torch its threads
    try:
        mp.set_forkserver_preload(IMPORTED_ONCE)
        ensure_running()
    finally:
        for name in FIXED:
            del os.environ[name]
        os.environ |= before


def run_workers(fn: Callable[..., Any], world_size: int, *args: Any, timeout_s: float = 600) -> list[Any]:
    """Run `fn(*args)` on every rank and return the results by rank.

    Raises:
        AssertionError: a process failed (its traceback is printed) or hung longer than `timeout_s`.
    """
    _serve()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (world_size, folder, fn, args)
        context = start_processes(_entry, arguments, nprocs=world_size, join=False, start_method="forkserver")
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
