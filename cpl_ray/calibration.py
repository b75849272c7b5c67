"""How fast this machine's CPUs train a model: a few real passes and steps on random weights, in a process of its own.

The numbers a pass works with do not decide how long it takes, so no weights are needed.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from cpl_ray.activations import Pass
from cpl_ray.adapters import adapt
from cpl_ray.batches import Batch, collate
from cpl_ray.collectives import Collectives
from cpl_ray.config import Config
from cpl_ray.encoding import Encoded
from cpl_ray.engine import ZeroEngine
from cpl_ray.fused import is_fused
from cpl_ray.model import DTYPES
from cpl_ray.step import accumulate, mean_loss

ENOUGH_S = 4.0
MOST_ROUNDS = 5


@dataclass(frozen=True)
class Calibration:
    """Seconds, medians over rounds."""

    injection_s: float
    """Forward and backward of an injection micro-batch."""
    mastered_s: float
    """The same of a mastered one; 0 where none is made."""
    forward_s: float
    """Forward only, of an injection micro-batch."""
    capture_s: float
    update_s: float
    rounds: int


@contextmanager
def one_process(num_threads: int) -> Iterator[None]:
    """Hold a process group of one on so many threads, unless there is one already."""
    if dist.is_initialized():
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{Path(folder) / 'store'}", rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()
            torch.set_num_threads(before)


def random_model(config: Config, settings: PretrainedConfig) -> PreTrainedModel:
    """Return the model that a run trains, adapter included, with random weights."""
    kind: Any = AutoModelForCausalLM
    model: PreTrainedModel = kind.from_config(
        settings, dtype=DTYPES[config.train.dtype], trust_remote_code=config.trust_remote_code
    )
    adapt(model, config.adapter, seed=config.train.seed)
    if config.train.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return model


def batch_of(shape: Pass) -> Batch:
    """Return a micro-batch of this many rows and tokens, the answer at each row's end."""
    answer = min(max(1, round(shape.targets / shape.rows)), shape.length - 1)
    row = Encoded("", (1,) * (shape.length - answer), (1,) * answer)
    return collate([row] * shape.rows, pad_id=0)


def calibrate(
    config: Config, settings: PretrainedConfig, injection: Pass, mastered: Pass | None, *, updates: int
) -> Calibration:
    """Time passes and steps of one worker on this machine.

    Args:
        config: the run; one worker of it is played, with its CPUs to itself.
        settings: of the model.
        injection: shape of an injection micro-batch.
        mastered: of a mastered one; None: none is made.
        updates: planned, on which the form of the steps depends.
    """
    alone = config.model_copy(update={"cluster": config.cluster.model_copy(update={"num_workers": 1})})
    with one_process(max(1, int(config.cluster.cpus_per_worker))):
        engine = ZeroEngine(random_model(config, settings), alone)
        try:
            method = engine.optimizer.method
            shares = config.cluster.num_workers if config.running_zero_stage else 1
            compiles = is_fused(engine.optimizer.compile, method.fusion, engine.num_params // shares, updates)
            engine.optimizer.compile = "always" if compiles else "never"
            if method.needs_layout:
                method.bind(engine.layout())
            return _timed(engine, injection, mastered, captures=config.mastered_passes != "mix")
        finally:
            engine.close()


def _timed(engine: ZeroEngine, injection: Pass, mastered: Pass | None, *, captures: bool) -> Calibration:
    comm, taught = Collectives(engine.device), [(batch_of(injection),)]
    known = None if mastered is None else [(batch_of(mastered),)]
    engine.module.train()
    names = ("injection", "mastered", "forward", "capture", "update")
    seconds: dict[str, list[float]] = {name: [] for name in names}

    def timed(name: str, run: Callable[[], object]) -> None:
        started = time.perf_counter()
        run()
        seconds[name].append(time.perf_counter() - started)

    started, rounds = time.perf_counter(), 0
    while rounds < 2 or (rounds < MOST_ROUNDS and time.perf_counter() - started < ENOUGH_S):
        if known is not None:
            timed("mastered", lambda: accumulate(engine, known, comm, "mastered"))
            if captures:
                timed("capture", engine.capture)
        timed("injection", lambda: accumulate(engine, taught, comm, "injection"))
        timed("update", engine.update)
        timed("forward", lambda: mean_loss(engine, taught, comm))
        rounds += 1
    # the first round also makes buffers and state
    found = {name: statistics.median(values[1:]) if values else 0.0 for name, values in seconds.items()}
    return Calibration(
        injection_s=found["injection"],
        mastered_s=found["mastered"],
        forward_s=found["forward"],
        capture_s=found["capture"],
        update_s=found["update"],
        rounds=rounds,
    )
