"""Measure in processes of their own: one alone, or several joined by gloo; and what memory a process has."""

import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

TIMEOUT_S = 6 * 3600.0
"""Nothing here takes so long, not even on a busy machine that pauses these processes."""


def apart(measure: Callable[..., Any], *args: Any) -> Any:
    """Run `measure(*args)` in a new process and return what it returns (as JSON has it).

    Raises:
        RuntimeError: the process failed; its traceback is on stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _started(_alone, [(measure, args, folder)], folder)[0]


def together(measure: Callable[..., Any], num_processes: int, *args: Any) -> list[Any]:
    """Run `measure(*args)` on so many gloo processes of one thread each; return their results by rank.

    Raises:
        RuntimeError: a process failed or hangs.
    """
    with tempfile.TemporaryDirectory() as folder:
        given = [(measure, args, folder, rank, num_processes) for rank in range(num_processes)]
        return _started(_joined, given, folder)


def _started(entry: Callable[..., None], given: list[tuple[Any, ...]], folder: str) -> list[Any]:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=entry, args=args) for args in given]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(TIMEOUT_S)
    finally:
        for process in processes:
            process.kill()
            process.join()
    if any(codes := [process.exitcode for process in processes]):
        raise RuntimeError(f"{given[0][0].__name__}{given[0][1]}: processes ended with {codes}")
    return [json.loads(Path(folder, f"{rank}.json").read_text(encoding="utf-8")) for rank in range(len(given))]


def _alone(measure: Callable[..., Any], args: tuple[Any, ...], folder: str) -> None:
    torch.set_num_threads(1)
    Path(folder, "0.json").write_text(json.dumps(measure(*args)), encoding="utf-8")


def _joined(measure: Callable[..., Any], args: tuple[Any, ...], folder: str, rank: int, world_size: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=TIMEOUT_S),
    )
    try:
        Path(folder, f"{rank}.json").write_text(json.dumps(measure(*args)), encoding="utf-8")
        dist.barrier()
    finally:
        dist.destroy_process_group()


def resident(what: str) -> int:
    """Return `VmRSS`, `VmHWM` (its peak) or `RssAnon` (without shared memory) of this process in bytes (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(what))) * 1024


def new_peak() -> None:
    """Let the peak of this process's memory start anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
