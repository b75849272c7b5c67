"""Taking a gradient, or an update, out of a step without a trace in the training.

ZeRO gives the optimizer reduced gradients of a rank's partition at a capture, whatever the stage; here another method
than the run's own receives them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from cpl_ray.kept_states import KeptStates
from cpl_ray.methods.base import Chunk, Fusion, Method
from cpl_ray.optimizer import CPLOptimizer

DELEGATED = ("two_passes", "whole", "needs_layout", "keeps_start", "clips_mastered", "captures_per_refresh")


class Taken:
    """The gradient of one flat tensor as a capture brought it, `[num_params]`; not clipped."""

    def __init__(self, param: Tensor) -> None:
        self.param = param
        self.gradient: Tensor | None = None
        self.captured = False

    def capture(self, gradient: Tensor) -> None:
        """Copy the gradient: the tensor itself is ZeRO's buffer."""
        self.gradient, self.captured = gradient.clone(), True

    def tensors(self) -> dict[str, Tensor]:
        """Return nothing: no checkpoint holds it."""
        return {}

    def restored(self) -> None:
        """Do nothing: no checkpoint holds it."""


class Reader(Method):
    """Takes the gradients of a capture down."""

    def __init__(self) -> None:
        self.taken: list[Taken] = []

    def new_kept(self, like: Tensor) -> Taken:
        """Return room for one flat tensor's gradient."""
        self.taken.append(Taken(like))
        return self.taken[-1]


@contextmanager
def reading(optimizer: CPLOptimizer) -> Iterator[Reader]:
    """Give the captures of the block to a reader; what the run's own method keeps is set aside, whole, meanwhile."""
    reader = Reader()
    own = optimizer.method, optimizer.kept
    optimizer.method, optimizer.kept = reader, KeptStates()
    try:
        yield reader
    finally:
        optimizer.method, optimizer.kept = own


class Watched(Method):
    """A method whose updates are copied as it makes them: u as it was formed, and what was applied of it.

    Args:
        inner: the run's own method; every question is passed on to it.
    """

    def __init__(self, inner: Method) -> None:
        self.inner = inner
        for name in DELEGATED:
            setattr(self, name, getattr(inner, name))
        self.bind, self.new_kept = inner.bind, inner.new_kept  # type: ignore[method-assign]
        self.begin, self.between, self.end = inner.begin, inner.between, inner.end  # type: ignore[method-assign]
        self.gradient = inner.gradient  # type: ignore[method-assign]
        self.watching = False
        self.formed: dict[int, Tensor] = {}
        """u by number of the flat tensor, of the last update that was watched."""
        self.applied: dict[int, Tensor] = {}
        """What was subtracted, times the rate."""

    @property
    def fusion(self) -> Fusion | None:
        """What the inner method is, so that watching changes no bit."""
        return self.inner.fusion

    @property
    def sees_updates(self) -> bool:
        """Whether updates are being copied."""
        return self.watching or self.inner.sees_updates

    def update(self, update: Tensor, chunk: Chunk) -> Tensor:
        """Return what the inner method makes of the update, and copy both while `watching`."""
        if not self.watching:
            return self.inner.update(update, chunk)
        self._copy(self.formed, update, chunk)
        applied = self.inner.update(update, chunk)
        self._copy(self.applied, applied, chunk)
        return applied

    @staticmethod
    def _copy(into: dict[int, Tensor], values: Tensor, chunk: Chunk) -> None:
        flat = chunk.flat
        if flat.index not in into:
            into[flat.index] = torch.zeros_like(flat.gradient)
        into[flat.index][chunk.part] = values.reshape(-1)
