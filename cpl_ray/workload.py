"""Tokens, updates and arithmetic of a run, from its settings and the sizes of its items."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from cpl_ray.census import Census
from cpl_ray.config import Config
from cpl_ray.length_groups import length_groups
from cpl_ray.order import ItemOrder
from cpl_ray.schedule import planned_updates


@dataclass(frozen=True, slots=True)
class ItemSize:
    """One item in tokens."""

    context: int
    target: int
    requests: int = 1
    """Sequences that its scorer asks for."""

    @property
    def tokens(self) -> int:
        """Prompt and answer."""
        return self.context + self.target


@dataclass(frozen=True)
class Batching:
    """What micro-batches of a set are padded to."""

    padded_tokens: float
    """Per item, on the average."""
    length: int
    """Of the longest row."""
    positions: int
    """Most columns at which anything is supervised in one micro-batch."""
    targets: float
    """Supervised tokens per item, on the average."""


@dataclass(frozen=True)
class Workload:
    """What a run does; counts are over all workers together."""

    injection_items: int
    mastered_items: int
    """Of M train."""
    updates_per_epoch: int
    updates: int
    """At most: a learned target may end the run earlier."""
    captures: int
    """Mastered passes: refreshes, or one beside every update."""
    mastered_items_per_capture: int
    evaluations: int
    scored_items: int
    """Per evaluation."""
    injection_tokens: int
    """Padded, in all."""
    mastered_tokens: int
    scored_tokens: int

    @property
    def trained_tokens(self) -> int:
        """Tokens that go forward and backward."""
        return self.injection_tokens + self.mastered_tokens


def batching(sizes: Sequence[ItemSize], config: Config, micro_batch_size: int, cost: int | None) -> Batching:
    """Form the micro-batches of the first epoch's order and see what they are padded to.

    Args:
        sizes: items of one set, at least one.
        config: seed and shuffling.
        micro_batch_size: items per backward pass.
        cost: of a forward pass, as in `length_groups`.
    """
    train = config.train
    order = ItemOrder(len(sizes), train.seed, train.shuffle, config.data.shuffle_window)
    numbers = order.batch(0, 0, len(sizes))
    padded, positions = 0, 1
    for start in range(0, len(numbers), micro_batch_size):
        rows = [sizes[number] for number in numbers[start : start + micro_batch_size]]
        groups = length_groups([row.tokens for row in rows], cost)
        padded += sum(groups[bisect_left(groups, row.tokens)] for row in rows)
        columns = {column for row in rows for column in range(row.context - 1, row.tokens - 1)}
        positions = max(positions, len(columns))
    length = max(size.tokens for size in sizes)
    return Batching(padded / len(sizes), length, min(positions, length), fmean(size.target for size in sizes))


def workload(
    config: Config, injection: Sequence[ItemSize], mastered: Sequence[ItemSize], held_out: int, cost: int | None
) -> Workload:
    """Count what a run does.

    Args:
        config: the run.
        injection: items that are injected.
        mastered: items of M train.
        held_out: items of M validation, scored at evaluations.
        cost: of a forward pass, as in `length_groups`.
    """
    train = config.train
    per_epoch = math.ceil(len(injection) / config.global_batch_size)
    updates = planned_updates(per_epoch, train.epochs, train.max_steps)
    passes, size = config.mastered_passes, min(train.mastered_batch_size, len(mastered))
    captures = 0
    if passes == "mix":
        captures = updates
    elif passes == "start":
        captures, size = 1, min(config.method.fisher_items, len(mastered))
    elif passes == "capture":
        whole = train.refresh == "epoch"
        captures = math.ceil(updates / (per_epoch if whole else int(train.refresh)))
        size = len(mastered) if whole else size
    every = config.evaluate.every
    evaluations = 0 if every is None else 1 + math.ceil(updates / (per_epoch if every == "epoch" else int(every)))
    in_set = len(mastered) if config.evaluate.in_set else 0
    scored = len(injection) + in_set + held_out
    first = batching(injection, config, train.micro_batch_size, cost).padded_tokens
    second = 0.0
    if captures:
        micro = 1 if passes == "start" else train.mastered_micro_batch_size or train.micro_batch_size
        second = batching(mastered, config, micro, cost).padded_tokens
    per_item = fmean(item.tokens * item.requests for item in (*injection, *mastered))
    items_trained = min(updates * config.global_batch_size, len(injection) * updates / per_epoch)
    return Workload(
        injection_items=len(injection),
        mastered_items=len(mastered),
        updates_per_epoch=per_epoch,
        updates=updates,
        captures=captures,
        mastered_items_per_capture=size if captures else 0,
        evaluations=evaluations,
        scored_items=scored,
        injection_tokens=round(first * items_trained),
        mastered_tokens=round(second * captures * size),
        scored_tokens=round(per_item * scored * evaluations),
    )


def training_flops(
    census: Census, *, tokens: int, length: int, targets: float, layers: int, width: int, checkpointing: bool
) -> float:
    """Return the arithmetic of training passes: 6 N per token with all trained, and attention.

    A product with a weight costs 2 per element and token forward, 2 backward to its input and 2 to itself where it is
    trained (Kaplan et al. 2020, arXiv 2001.08361, section 2.1); embeddings are looked up, the head is used at
    supervised positions. Attention adds 4 * length * width per token and layer forward, twice that backward.

    Args:
        census: the parameters.
        tokens: padding included.
        length: of a row, for attention.
        targets: supervised tokens per token.
        layers: transformer blocks.
        width: heads times the size of a head.
        checkpointing: the forward pass is made twice.
    """
    forward = scoring_flops(census, tokens=tokens, length=length, targets=targets, layers=layers, width=width)
    trained = 2.0 * tokens * census.matrices(trained=True)
    head_trained = 2.0 * tokens * targets * census.head if _head_trained(census) else 0.0
    attention = 4.0 * tokens * length * width * layers
    return forward * (3 if checkpointing else 2) + attention + trained + head_trained


def scoring_flops(census: Census, *, tokens: int, length: int, targets: float, layers: int, width: int) -> float:
    """Return the arithmetic of forward passes: 2 N per token, and attention; arguments as in `training_flops`."""
    products = 2.0 * tokens * (census.matrices() + targets * census.head)
    return products + 4.0 * tokens * length * width * layers


def _head_trained(census: Census) -> bool:
    kind = "embedding" if census.tied else "head"
    return any(weight.kind == kind and weight.trainable for weight in census.weights)
