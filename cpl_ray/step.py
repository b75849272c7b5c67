"""One optimizer update: which passes it makes and what is measured."""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cpl_ray.batches import Batch, MicroBatch
from cpl_ray.collectives import Collectives
from cpl_ray.errors import DataError, NonFiniteError
from cpl_ray.forward import evaluating
from cpl_ray.layout import Layout
from cpl_ray.loss import supervised_cross_entropy
from cpl_ray.optimizer import CPLOptimizer


class Engine(Protocol):
    """What the loop needs of an engine; `engine.ZeroEngine` is the real one, a plain torch one serves parity tests."""

    optimizer: CPLOptimizer
    num_params: int
    replicas: int
    """How many ranks hold each parameter's optimizer state: the world size in stage 0, else 1."""

    @property
    def module(self) -> nn.Module: ...
    @property
    def device(self) -> torch.device: ...
    def forward(self, **inputs: Tensor | bool) -> Any: ...
    def backward(self, loss: Tensor) -> None: ...
    def set_lr(self, lr: float) -> None: ...
    def capture(self) -> float: ...
    def update(self) -> float: ...
    def masters(self) -> list[Tensor]: ...
    def publish(self) -> None: ...
    def layout(self) -> Layout: ...


@dataclass(frozen=True)
class PassResult:
    """One accumulated pass over a global batch, all ranks together."""

    loss: float
    """Mean loss per supervised token."""
    num_tokens: int
    """Tokens without padding."""


def takes_positions(module: nn.Module) -> bool:
    """Tell whether the model can compute logits at chosen positions only."""
    return "logits_to_keep" in inspect.signature(module.forward).parameters


def accumulate(
    engine: Engine, batches: Sequence[MicroBatch], comm: Collectives, what: str, *, weight: float = 1.0
) -> PassResult:
    """Run forward and backward over a rank's micro-batches; adds the gradient of the global mean to the engine's.

    The mean is over the supervised tokens of all ranks and micro-batches; ranks are averaged by the engine, hence the
    factor world_size / global count on each micro-batch's loss sum.

    Args:
        engine: holds the model; further passes before its next step add up.
        batches: this rank's micro-batches, equally many on every rank.
        comm: sums over ranks.
        what: name of the set, for messages.
        weight: factor on the gradient, not on the loss that is returned.

    Raises:
        NonFiniteError: the loss is NaN or infinite on some rank; raised on every rank.
        DataError: no token is supervised.
    """
    parts = [part for batch in batches for part in batch]
    num_targets, num_tokens = comm.sum([sum(b.num_targets for b in parts), sum(b.num_tokens for b in parts)])
    if not num_targets:
        raise DataError(f"the {what} batch has no answer token to train on")
    scale = weight * comm.world_size / num_targets
    sparse = takes_positions(engine.module)
    total = 0.0
    for batch in batches:
        losses = [_loss_sum(engine.forward, part.to(engine.device), sparse=sparse) for part in batch]
        loss = torch.stack(losses).sum()
        engine.backward(loss * scale)
        total += float(loss.detach())
    mean = comm.sum([total])[0] / num_targets
    if not math.isfinite(mean):
        raise NonFiniteError(f"the {what} loss is {mean}; no parameter was moved")
    return PassResult(mean, int(num_tokens))


def mean_loss(engine: Engine, batches: Sequence[MicroBatch], comm: Collectives) -> float:
    """Return the mean loss per supervised token of a global batch: dropout off, no gradient; all ranks call.

    Normalised as in `accumulate`, whose batches these are; may be NaN or infinite, then on every rank.
    """
    sparse = takes_positions(engine.module)
    parts = [part for batch in batches for part in batch]
    total = 0.0
    with evaluating(engine.module), torch.no_grad():
        for part in (p.to(engine.device) for p in parts):
            total += float(_loss_sum(engine.module, part, sparse=sparse))
    summed, num_targets = comm.sum([total, float(sum(part.num_targets for part in parts))])
    return summed / num_targets


def _loss_sum(forward: Callable[..., Any], batch: Batch, *, sparse: bool) -> Tensor:
    """Return the sum of a batch's token losses; `sparse`: the model takes the positions that are wanted."""
    chosen: dict[str, Tensor | bool] = {"logits_to_keep": batch.positions} if sparse else {}
    output = forward(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, **batch.images, **chosen
    )
    logits = output.logits if sparse else output.logits[:, batch.positions]
    return supervised_cross_entropy(logits, batch.labels)


def update_metrics(engine: Engine, comm: Collectives) -> dict[str, float]:
    """Return the shares and counts of the last update over all ranks, padding excluded.

    `collaborative_share` + `conflict_share` = 1; `zero_share` is the part of the collaborative that is exactly zero;
    `flip_rate` is missing before the second mask; `moved_against` is a count, missing where no sign of g_M is kept, and
    must be 0 with the mask on the update. Methods without classes have `moved_share` and `moved_against` only.
    """
    names = (
        "conflict",
        "zero",
        "flips",
        "flip_of",
        "moved",
        "moved_against",
        "conflict_mass",
        "predicted_change",
        "frozen",
    )
    local = engine.optimizer.stats.to_dict()
    total, *sums = comm.sum([local["total"], *(local.get(name, 0.0) for name in names)])
    stats = dict(zip(names, sums, strict=True))
    replicas = engine.replicas
    real = engine.num_params * replicas
    padding = total - real  # partitions add up to the parameters plus padding, which is always of class zero
    metrics = {"moved_share": stats["moved"] / real}
    if "frozen" in local:
        metrics["frozen_share"] = stats["frozen"] / real
    if "moved_against" in local:
        metrics["moved_against"] = stats["moved_against"] / replicas
    if "conflict" not in local:
        return metrics
    metrics |= {
        "collaborative_share": 1.0 - stats["conflict"] / real,
        "conflict_share": stats["conflict"] / real,
        "zero_share": (stats["zero"] - padding) / real,
    }
    if stats["flip_of"] > padding:
        metrics["flip_rate"] = stats["flips"] / (stats["flip_of"] - padding)
    if "conflict_mass" in local:
        metrics |= {name: stats[name] / replicas for name in ("conflict_mass", "predicted_change")}
    return metrics
