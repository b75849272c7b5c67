"""Replay, L2-SP and EWC through the loop in float64 equal torch's autograd and optimizers on the published losses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cpl_ray.config import Config
from cpl_ray.loop import TrainingLoop
from cpl_ray.loop_state import LoopState
from cpl_ray.metrics_log import read_records
from tests.oracle import transcription
from tests.oracle.plain_engine import PlainEngine
from tests.oracle.toy import Rowset, toy_items, toy_model

MASTERED, INJECTION = toy_items(7, seed=1), toy_items(5, seed=2)
EPOCHS, BATCH, REPLAYED, WEIGHT, FISHER_ITEMS = 3, 2, 3, 0.7, 4
OPTIMIZERS: dict[str, tuple[dict[str, Any], Callable[[list[nn.Parameter]], torch.optim.Optimizer]]] = {
    "sgd-decay": (
        {"name": "sgd", "lr": 0.02, "momentum": 0.9, "weight_decay": 0.1},
        lambda params: torch.optim.SGD(params, lr=0.02, momentum=0.9, weight_decay=0.1),
    ),
    "adamw": (
        {"name": "adamw", "lr": 1e-3, "weight_decay": 0.1},
        lambda params: torch.optim.AdamW(params, lr=1e-3, weight_decay=0.1),
    ),
}


def run_loop(rule: str, optimizer: str, folder: Path | None = None, **sections: Any) -> tuple[nn.Module, LoopState]:
    """Train a toy model through the loop on the plain engine."""
    train = {"rule": rule, "epochs": EPOCHS, "micro_batch_size": BATCH, "shuffle": False, "checkpoint_every": None}
    train |= {"mastered_batch_size": REPLAYED, "max_grad_norm": None, **sections.pop("train", {})}
    values = {"model": "toy", "optimizer": OPTIMIZERS[optimizer][0], "train": train, **sections}
    config, model = Config.model_validate(values), toy_model(torch.float64)
    engine = PlainEngine(model, config)
    loop = TrainingLoop(config, engine, Rowset(INJECTION), Rowset(MASTERED), pad_id=0, run_folder=folder)
    return model, loop.run()


def mean_loss(model: nn.Module, items: list[transcription.Item]) -> Tensor:
    """Return the mean loss over the supervised tokens of items."""
    losses = torch.stack([transcription.token_losses(model, item) for item in items])
    return losses.sum() / sum(len(answer) for _, answer in items)


def by_autograd(
    optimizer: str, penalty: Callable[[nn.Module, int], Tensor], max_grad_norm: float | None = None
) -> nn.Module:
    """Minimise mean injection loss + penalty(model, update) in batches with torch's own optimizer."""
    model = toy_model(torch.float64)
    params = list(model.parameters())
    inner = OPTIMIZERS[optimizer][1](params)
    batches = [INJECTION[first : first + BATCH] for first in range(0, len(INJECTION), BATCH)] * EPOCHS
    for update, batch in enumerate(batches):
        inner.zero_grad()
        (mean_loss(model, batch) + penalty(model, update)).backward()
        if max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(params, max_grad_norm)
        inner.step()
    return model


def assert_equal(ours: nn.Module, theirs: nn.Module) -> None:
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-10)


def replayed(model: nn.Module, update: int) -> Tensor:
    """Return the weighted loss of the next mastered items, taken in turns."""
    chosen = [MASTERED[(update * REPLAYED + i) % len(MASTERED)] for i in range(REPLAYED)]
    return WEIGHT * mean_loss(model, chosen)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("max_grad_norm", [None, 0.3])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_replay_is_the_gradient_of_both_losses(
    optimizer: str, max_grad_norm: float | None, accumulation: int, tmp_path: Path
) -> None:
    parts = {"micro_batch_size": BATCH // accumulation, "gradient_accumulation_steps": accumulation}
    train = {**parts, "mastered_micro_batch_size": 2, "max_grad_norm": max_grad_norm}
    ours, state = run_loop("replay", optimizer, tmp_path, train=train, method={"replay_weight": WEIGHT})
    assert_equal(ours, by_autograd(optimizer, replayed, max_grad_norm))  # clipped is the sum
    assert (state.step, state.captures) == (9, 9)
    first = read_records(tmp_path / "metrics.jsonl", "train")[0]
    assert first.values["loss_mastered"] == pytest.approx(
        float(mean_loss(toy_model(torch.float64), MASTERED[:REPLAYED]).detach())
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_l2sp_is_the_gradient_of_its_loss(optimizer: str) -> None:
    strength = 5.0
    start = [p.detach().clone() for p in toy_model(torch.float64).parameters()]

    def penalty(model: nn.Module, update: int) -> Tensor:
        distances = [(p - s).square().sum() for p, s in zip(model.parameters(), start, strict=True)]
        return strength / 2 * torch.stack(distances).sum()

    ours, state = run_loop("l2sp", optimizer, method={"strength": strength})
    assert_equal(ours, by_autograd(optimizer, penalty))
    assert state.captures == 0


def fisher(model: nn.Module, count: int) -> list[Tensor]:
    """Return the mean over the first mastered items of the squared gradient of each one's mean token loss."""
    squares = [[g.square() for g in transcription.mean_gradient(model, [item])] for item in MASTERED[:count]]
    return [torch.stack(each).mean(0) for each in zip(*squares, strict=True)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("asked", [FISHER_ITEMS, 100])
def test_ewc_is_the_gradient_of_its_loss(optimizer: str, asked: int) -> None:
    strength = 300.0
    base = toy_model(torch.float64)
    start = [p.detach().clone() for p in base.parameters()]
    importance = fisher(base, min(asked, len(MASTERED)))

    def penalty(model: nn.Module, update: int) -> Tensor:
        terms = zip(importance, model.parameters(), start, strict=True)
        return strength / 2 * torch.stack([(f * (p - s).square()).sum() for f, p, s in terms]).sum()

    ours, state = run_loop("ewc", optimizer, method={"strength": strength, "fisher_items": asked})
    assert_equal(ours, by_autograd(optimizer, penalty))
    assert state.captures == 1  # all items once, before the first update
    plain, _ = run_loop("none", optimizer)
    pull = [float((a - b).detach().abs().max()) for a, b in zip(ours.parameters(), plain.parameters(), strict=True)]
    assert max(pull) > 1e-4  # the penalty is felt


def test_hft_records_the_share_that_is_frozen(tmp_path: Path) -> None:
    ours, state = run_loop("hft", "adamw", tmp_path)
    records = read_records(tmp_path / "metrics.jsonl", "train")
    base = dict(toy_model(torch.float64).named_parameters())
    same = [name for name, p in ours.named_parameters() if torch.equal(p, base[name])]
    share = sum(base[name].numel() for name in same) / sum(p.numel() for p in base.values())
    assert 0.2 < share < 0.5
    assert [record.values["frozen_share"] for record in records] == pytest.approx([share] * 9)
    assert state.mean("moved_share") <= 1 - share  # type: ignore[operator]
