"""Loop and optimizer on a plain torch engine in float64 equal the transcription of the equations to 1e-10."""

from typing import Any

import pytest
import torch

from cpl_ray.config import Config
from cpl_ray.loop import TrainingLoop
from cpl_ray.loop_state import LoopState
from tests.oracle import transcription
from tests.oracle.plain_engine import PlainEngine
from tests.oracle.toy import Rowset, toy_items, toy_model

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd", "lr": 0.05},
    "sgd-decay": {"name": "sgd", "lr": 0.05, "weight_decay": 0.1},
    "momentum": {"name": "sgd", "lr": 0.02, "momentum": 0.9},
    "momentum-decay": {"name": "sgd", "lr": 0.02, "momentum": 0.9, "weight_decay": 0.1},
    "adam": {"name": "adam", "lr": 1e-3},
    "adam-decay": {"name": "adam", "lr": 1e-3, "weight_decay": 0.1},
    "adamw": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.1},
}
MASTERED, INJECTION = toy_items(7, seed=1), toy_items(5, seed=2)


def run_loop(config: Config, model: torch.nn.Module) -> LoopState:
    return TrainingLoop(config, PlainEngine(model, config), Rowset(INJECTION), Rowset(MASTERED), pad_id=0).run()


def paper_config(optimizer: dict[str, Any], **train: Any) -> Config:
    defaults = {"refresh": "epoch", "epochs": 3, "micro_batch_size": 1, "shuffle": False, "max_grad_norm": None}
    return Config.model_validate({"model": "toy", "optimizer": optimizer, "train": {**defaults, **train}})


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
def test_equals_the_transcription(name: str, max_grad_norm: float | None) -> None:
    settings = OPTIMIZERS[name]
    ours, reference = toy_model(torch.float64), toy_model(torch.float64)
    start = [p.detach().clone() for p in reference.parameters()]
    state = run_loop(paper_config(settings, max_grad_norm=max_grad_norm), ours)
    keys = {k: v for k, v in settings.items() if k not in ("name", "lr")}
    shares = transcription.train(
        reference,
        MASTERED,
        INJECTION,
        optimizer=settings["name"],
        lr=settings["lr"],
        epochs=3,
        max_grad_norm=max_grad_norm,
        **keys,
    )
    assert state.step == 15
    assert state.captures == 3
    assert state.moved_against == 0
    assert state.mean("collaborative_share") == pytest.approx(sum(shares) / 15, abs=1e-12)
    for mine, theirs, before in zip(ours.parameters(), reference.parameters(), start, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)
        assert not torch.equal(mine, before)


def test_mastered_micro_batches_do_not_change_the_numbers() -> None:
    config = {"name": "adamw", "lr": 1e-3}
    one, many = toy_model(torch.float64), toy_model(torch.float64)
    run_loop(paper_config(config, mastered_micro_batch_size=1), one)
    run_loop(paper_config(config, mastered_micro_batch_size=7), many)
    for a, b in zip(one.parameters(), many.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_accumulation_equals_one_large_micro_batch() -> None:
    config = {"name": "adam", "lr": 1e-3}
    split, whole = toy_model(torch.float64), toy_model(torch.float64)
    run_loop(paper_config(config, micro_batch_size=1, gradient_accumulation_steps=4), split)
    run_loop(paper_config(config, micro_batch_size=4), whole)
    for a, b in zip(split.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_rule_none_is_torch_adamw() -> None:
    ours, reference = toy_model(torch.float64), toy_model(torch.float64)
    run_loop(paper_config({"name": "adamw", "lr": 1e-3, "weight_decay": 0.1}, rule="none"), ours)
    theirs = torch.optim.AdamW(reference.parameters(), lr=1e-3, weight_decay=0.1)
    for _ in range(3):
        for item in INJECTION:
            theirs.zero_grad()
            (transcription.token_losses(reference, item) / len(item[1])).backward()
            theirs.step()
    for mine, other in zip(ours.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-10)
