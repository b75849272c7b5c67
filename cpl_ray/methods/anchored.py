"""Penalties on the distance from the base model: L2-SP and elastic weight consolidation.

The penalty's gradient is added to the injection gradient after clipping, so that its strength does not depend on the
norm of the injection gradient, and before the moments (and a coupled weight decay, which is added likewise).
"""

import torch
from torch import Tensor

from cpl_ray.methods.base import Chunk, Method


class StartState:
    """theta_0 of a flat tensor, in its own type: 4 bytes per element."""

    def __init__(self, like: Tensor) -> None:
        self.start = like.detach().reshape(-1).clone()
        self.captured = False

    def capture(self, gradient: Tensor) -> None:
        """Refuse a mastered gradient.

        Raises:
            ValueError: always.
        """
        raise ValueError("L2-SP uses no mastered gradient, so there is nothing to capture")

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors a checkpoint must hold."""
        return {"start": self.start}

    def restored(self) -> None:
        """Note that `tensors` were read from a checkpoint: nothing else is kept."""


class FisherState(StartState):
    """theta_0 and the diagonal Fisher information of a flat tensor: 8 bytes per element.

    Args:
        like: the flat tensor, at theta_0.
        method: says, once captures begin, how many items there are.
    """

    def __init__(self, like: Tensor, method: "EWC") -> None:
        super().__init__(like)
        self.fisher = torch.zeros_like(self.start)
        self._method, self._items = method, 0

    def capture(self, gradient: Tensor) -> None:
        """Add the squared gradient of one item's mean token loss; `captured` is set with the last item."""
        self._items += 1
        self.fisher.addcmul_(gradient, gradient)
        if self._items == self._method.captures_per_refresh:
            self.fisher.div_(self._items)
            self.captured = True

    def tensors(self) -> dict[str, Tensor]:
        return {"start": self.start, "fisher": self.fisher}

    def restored(self) -> None:
        """Note that `tensors` were read from a checkpoint: the mean over all items."""
        self.captured = True


class L2SP(Method):
    """min L_I + (alpha / 2) * ||theta - theta_0||^2: decay towards the base model instead of zero.

    Li, Grandvalet and Davoine 2018 (arXiv 1802.01483), eq. (3); without its second term for new layers, as there are
    none.

    Args:
        strength: alpha.
    """

    keeps_start = True

    def __init__(self, strength: float) -> None:
        self._strength = strength

    def new_kept(self, like: Tensor) -> StartState:
        """Return theta_0 of a flat tensor, which must not have moved yet."""
        return StartState(like)

    def gradient(self, gradient: Tensor, chunk: Chunk) -> Tensor:
        """Return g + alpha * (theta - theta_0)."""
        return gradient.add(chunk.theta - chunk.flat.kept.start[chunk.part], alpha=self._strength)


class EWC(Method):
    """min L_I + sum_j (lambda / 2) * F_j * (theta_j - theta_0,j)^2: the more M cares, the stiffer.

    Kirkpatrick et al. 2017 (arXiv 1612.00796), eq. (3). F is the empirical diagonal Fisher information of mastered
    items at theta_0: the mean over single items of the squared gradient of the item's mean token loss.

    Args:
        strength: lambda.
    """

    keeps_start = True

    def __init__(self, strength: float) -> None:
        self._strength = strength

    def new_kept(self, like: Tensor) -> FisherState:
        """Return theta_0 of a flat tensor, which must not have moved yet, and room for F."""
        return FisherState(like, self)

    def gradient(self, gradient: Tensor, chunk: Chunk) -> Tensor:
        """Return g + lambda * F * (theta - theta_0)."""
        kept, part = chunk.flat.kept, chunk.part
        return gradient.addcmul(kept.fisher[part], chunk.theta - kept.start[part], value=self._strength)
