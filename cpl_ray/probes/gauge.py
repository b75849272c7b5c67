"""Gradients and losses of any rows at the present weights, and weights set to any value: what probes measure with."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cpl_ray.forward import evaluating
from cpl_ray.gradients import reading
from cpl_ray.order import Rows

if TYPE_CHECKING:
    from cpl_ray.loop import TrainingLoop


@dataclass(frozen=True)
class Gradient:
    """The gradient of the mean loss over some rows: this rank's partition of it, in the optimizer's order."""

    loss: float
    norm: float
    params: list[Tensor]
    """theta: the optimizer's own tensors."""
    values: list[Tensor]
    """float `[num_params]` each; not clipped."""


class Gauge:
    """Measures at the loop's present weights: dropout off, the random state and the optimizer's state untouched.

    Args:
        loop: between two updates.
    """

    def __init__(self, loop: "TrainingLoop") -> None:
        self._loop = loop
        self._engine = loop.engine

    def gradient(self, side: str, rows: Rows) -> Gradient:
        """Return the gradient of the mean loss over rows of `mastered` or `injection`."""
        with self._untouched(), reading(self._engine.optimizer) as reader:
            passed = self._loop.passes.over(side, rows)
            norm = self._engine.capture()
        found = {id(taken.param): taken for taken in reader.taken}
        params = self._engine.optimizer.flat_params or [taken.param for taken in reader.taken]
        values = []
        for param in params:
            taken = found.get(id(param))  # none: the loss does not depend on it
            known = taken.gradient if taken is not None else None
            values.append(torch.zeros(param.numel(), device=param.device) if known is None else known)
        return Gradient(passed.loss, norm, params, values)

    def loss(self, rows: Rows) -> float:
        """Return the mean loss over mastered rows; forward only."""
        with self._untouched(), torch.no_grad():
            return self._loop.passes.loss_of_mastered(rows)

    def put(self, params: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        """Set theta to `values` exactly, on masters and weights.

        ZeRO copies its masters to the weights at the end of a step, so a capture of one item follows.
        """
        with torch.no_grad():
            for param, value in zip(params, values, strict=True):
                param.copy_(value.view_as(param))
        self.gradient("mastered", (0,))

    def dot(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
        """Return the inner product of two partitioned vectors, float64, over all partitions."""
        local = sum((a.double() * b.double()).sum() for a, b in zip(first, second, strict=True))
        assert isinstance(local, Tensor)
        return float(self._engine.optimizer.sum_over_partitions(local))

    @contextmanager
    def _untouched(self) -> Iterator[None]:
        device = self._engine.device
        cards = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=cards), evaluating(self._engine.module):
            yield
