"""Methods that combine two gradients: DeepSpeed equals plain torch on one process, and resumed equals uninterrupted."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cpl_ray.config import Config
from tests.distributed.launch import run_workers
from tests.distributed.test_resume import make_config as make_resumable
from tests.distributed.test_resume import train_once
from tests.distributed.test_zero_parity import OPTIMIZERS, agreement, make_config, plain_run, zero_run

pytestmark = pytest.mark.distributed
RULES = ("agem", "pcgrad", "gem", "graddrop")
PLACES = [(0, False), (1, False), (2, False), (3, False), (3, True)]  # stage, offload


def settings(rule: str, stage: int, batch: int, accumulation: int, *, offload: bool = False) -> Config:
    train = {
        "rule": rule,
        "micro_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "epochs": 2,
        "refresh": 2,
        "mastered_batch_size": 7,  # GEM: parts of 2, 2, 2 and 1
    }
    return make_config(OPTIMIZERS["adamw"], stage, train, offload_optimizer=offload, method={"margin": 0.1})


@pytest.fixture(scope="module")
def zero_results() -> dict[str, list[dict[str, torch.Tensor]]]:
    """Train by every rule in every place on two ranks, in the same two processes; return the weights by rule."""
    configs = [settings(rule, stage, 2, 1, offload=off).model_dump() for rule in RULES for stage, off in PLACES]
    results = iter(run_workers(zero_run, 2, configs)[0])
    return {rule: [next(results)["weights"] for _ in PLACES] for rule in RULES}


@pytest.mark.parametrize("rule", RULES)
def test_stages_agree_with_plain_torch_world_2(
    rule: str, zero_results: dict[str, list[dict[str, torch.Tensor]]]
) -> None:
    reference = plain_run(settings(rule, 0, 4, 1))
    free = plain_run(settings("none", 0, 4, 1))
    assert agreement(reference, free) < 0.5, "nothing conflicted: the comparison would prove nothing"
    shares = [agreement(weights, reference) for weights in zero_results[rule]]
    assert min(shares) >= 0.999, list(zip(PLACES, shares, strict=True))


RESUMED: list[dict[str, Any]] = [
    {"zero_stage": 3, "train": {"rule": "agem"}},
    {"zero_stage": 2, "train": {"rule": "gem"}},
]


def interrupted(root: str) -> list[list[dict[str, torch.Tensor]]]:
    results = []
    for index, variant in enumerate(RESUMED):
        whole, parts = Path(root, f"{index}-whole"), Path(root, f"{index}-parts")
        uninterrupted = train_once(make_resumable(variant, 6), whole)
        train_once(make_resumable(variant, 5), parts)  # the last checkpoint is after update 4, update 5 is lost
        results.append([uninterrupted, train_once(make_resumable(variant, 6), parts)])
    return results


def test_resumed_equals_uninterrupted_world_2(tmp_path: Path) -> None:
    for index, (uninterrupted, resumed) in enumerate(run_workers(interrupted, 2, str(tmp_path))[0]):
        for name, tensor in uninterrupted.items():
            assert torch.equal(tensor, resumed[name]), (RESUMED[index], name)
