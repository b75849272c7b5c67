"""A CPL update against a plain one through the same loop and DeepSpeed engine (ZeRO 2, one process, gloo)."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.measure import Timing, compare
from cpl_ray.batches import MicroBatch, micro_batch
from cpl_ray.collectives import Collectives
from cpl_ray.config import Config
from cpl_ray.encoding import Encoded
from cpl_ray.engine import ZeroEngine
from cpl_ray.step import accumulate

BATCH, LENGTH, VOCAB = 8, 48, 4096


def run(rounds: int) -> list[Timing]:
    """Compare a plain update with CPL at refresh 1 and refresh 4, equal batches; each timing covers four updates."""
    torch.set_num_threads(1)
    with only_rank():
        return compare(
            {
                "fine-tuning": four_updates(0),
                "CPL, refresh 4": four_updates(4),
                "CPL, refresh 1": four_updates(1),
            },
            rounds=rounds,
        )


@contextmanager
def only_rank() -> Iterator[None]:
    """Be a process group of one."""
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{Path(folder) / 'store'}", rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def batches(rows: int, length: int, vocab: int) -> tuple[list[MicroBatch], list[MicroBatch]]:
    """Return a mastered and an injection batch of random tokens, the last four of each row its answer."""
    ids = torch.randint(0, vocab, (2, rows, length), generator=torch.Generator().manual_seed(1)).tolist()
    mastered, injection = (
        [micro_batch([Encoded("", tuple(row[:-4]), tuple(row[-4:])) for row in drawn], 0, cost=None)] for drawn in ids
    )
    return mastered, injection


def four_updates(refresh: int) -> Callable[[], None]:
    """Return a function that makes four updates; `refresh` 0 is plain fine-tuning."""
    settings = Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    torch.manual_seed(0)
    config = Config.model_validate(
        {"model": "random", "train": {"micro_batch_size": BATCH, "rule": "cpl" if refresh else "none"}}
    )
    engine = ZeroEngine(Qwen2ForCausalLM(settings), config)
    comm = Collectives(engine.device)
    mastered, injection = batches(BATCH, LENGTH, VOCAB)

    def run_four() -> None:
        for step in range(4):
            if refresh and step % refresh == 0:
                accumulate(engine, mastered, comm, "mastered")
                engine.capture()
            accumulate(engine, injection, comm, "injection")
            engine.update()

    return run_four
