"""GEM: the closest gradient that conflicts with none of several mastered gradients."""

from typing import ClassVar

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from cpl_ray.methods.base import Chunk, Method, StepView
from cpl_ray.methods.products import combination, gram

RIDGE = 1e-12  # on the Gram matrix of unit vectors: makes the smallest of many equal multipliers the solution


def dual(gram: np.ndarray, against: np.ndarray) -> np.ndarray:
    """Solve min_v v'Pv / 2 + q'v, v >= 0 (Lopez-Paz & Ranzato 2017, eq. 11 with G the rows g_k).

    The g_k may be linearly dependent, equal, opposite or zero; a zero one gets the multiplier 0. Solved as non-negative
    least squares |Av + b|^2 with A'A = P and A'b = q, from the eigenvectors of P for unit g_k.

    Args:
        gram: P = GG', float64 `[k, k]`.
        against: q = Gg, float64 `[k]`.

    Returns:
        v*, float64 `[k]`.
    """
    norms = np.sqrt(np.diag(gram))
    used = np.flatnonzero(norms)
    multipliers = np.zeros(len(norms))
    if len(used):
        norms = norms[used]
        values, vectors = np.linalg.eigh(gram[np.ix_(used, used)] / np.outer(norms, norms))
        roots = np.sqrt(values.clip(min=0.0) + RIDGE)
        size = np.abs(against[used] / norms).max() or 1.0
        target = -(vectors.T @ (against[used] / norms / size)) / roots
        multipliers[used] = nnls(roots[:, None] * vectors.T, target)[0] * size / norms
    return multipliers


class GradientMemory:
    """Mastered gradients of the parts of one mastered batch, 4 bytes per element each.

    The first capture after an update starts anew, so that a batch of fewer parts than `slots` leaves no constraint of
    an earlier batch behind: unused slots are zero, which constrains nothing.

    Args:
        like: a flat tensor `[num_params]`.
        slots: gradients kept.
    """

    def __init__(self, like: Tensor, slots: int) -> None:
        self.gradients = torch.zeros(slots, like.numel(), dtype=like.dtype, device=like.device)
        self.captured = False
        self._next = 0
        self._used = False

    def capture(self, gradient: Tensor) -> None:
        """Store the gradient of the next part, `[num_params]`, in the next slot, round robin."""
        if self._used:
            self.gradients.zero_()
            self._next, self._used = 0, False
        self.gradients[self._next].copy_(gradient)
        self._next = (self._next + 1) % len(self.gradients)
        self.captured = True

    def use(self) -> None:
        """Note that an update was made with these gradients."""
        self._used = True

    def sign(self, part: slice) -> Tensor:
        """Return the sign of the parts' sum of a slice."""
        return torch.sign(self.gradients[:, part].sum(0))

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors a checkpoint must hold."""
        return {"gradients": self.gradients}

    def restored(self) -> None:
        """Note that `tensors` were read from a checkpoint, which is made after an update."""
        self.captured = self._used = True


class Gem(Method):
    """GEM (Lopez-Paz & Ranzato 2017, arXiv 1706.08840, eq. 8-12): g~ nearest to g with <g~, g_k> >= 0 for all k.

    Where no constraint is violated g is fed as it is. Else g~ = g + sum_k (v*_k + margin) g_k.

    Args:
        memory: number of constraints: a mastered batch is cut into so many parts.
        margin: added to each multiplier, >= 0.
    """

    whole: ClassVar[bool] = True

    def __init__(self, memory: int = 4, margin: float = 0.0) -> None:
        self.captures_per_refresh = memory
        self._memory, self._margin = memory, margin
        self._multipliers: list[float] = []

    def new_kept(self, like: Tensor) -> GradientMemory:
        """Return room for the constraints on a flat tensor."""
        return GradientMemory(like, self._memory)

    def begin(self, step: StepView) -> None:
        """Find the multipliers of all constraints; empty where none is violated."""
        products = gram(step, lambda flat, part: list(flat.kept.gradients[:, part])).numpy()
        against = products[0, 1:]
        violated = bool((against < 0).any())
        self._multipliers = (dual(products[1:, 1:], against) + self._margin).tolist() if violated else []

    def gradient(self, gradient: Tensor, chunk: Chunk) -> Tensor:
        """Return the gradient itself where nothing conflicts, else its projection."""
        if not self._multipliers:
            return gradient
        return combination([gradient, *chunk.flat.kept.gradients[:, chunk.part]], [1.0, *self._multipliers], chunk)

    def end(self, step: StepView) -> None:
        """Let the next capture start anew."""
        for flat in step.flats:
            flat.kept.use()
