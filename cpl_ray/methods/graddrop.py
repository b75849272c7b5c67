"""GradDrop: of two gradients that disagree in an element's sign, one is dropped there at random."""

from typing import ClassVar

import torch
from torch import Tensor

from cpl_ray.layout import Layout
from cpl_ray.mastered import GradientState
from cpl_ray.methods.base import Chunk, Method
from cpl_ray.methods.draws import uniform
from cpl_ray.methods.parameters import Parameters
from cpl_ray.vectors import spans


def positive_share(injection: Tensor, mastered: Tensor) -> Tensor:
    """Return P = (1 + (g_I + g_M) / (|g_I| + |g_M|)) / 2 in [0, 1], `[n]`; 1/2 where both are zero."""
    size = injection.abs().add_(mastered.abs())
    return injection.add(mastered).div_(size).nan_to_num_(nan=0.0).add_(1.0).div_(2.0)


def sign_dropout(injection: Tensor, mastered: Tensor, draws: Tensor) -> Tensor:
    """Return the sum of the entries that are kept: positive ones where P > U, negative ones elsewhere.

    Chen et al. 2020 (arXiv 2010.06808), Alg. 1 with f the identity and leak 0.

    Args:
        injection: g_I, `[n]`.
        mastered: g_M, same shape.
        draws: U in [0, 1), same shape. In [0, 1) ties go to the negative, or P = 0 could drop everything.
    """
    keep_positive = positive_share(injection, mastered) > draws
    positive = injection.clamp(min=0).add_(mastered.clamp(min=0))
    negative = injection.clamp(max=0).add_(mastered.clamp(max=0))
    return torch.where(keep_positive, positive, negative)


class GradDrop(Method):
    """GradDrop of the two tasks injection and mastered, with one draw per element and update.

    Args:
        seed: of the draws; they depend on nothing else but the element and the update.
    """

    needs_layout: ClassVar[bool] = True
    clips_mastered: ClassVar[bool] = True

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._parameters: Parameters | None = None

    def bind(self, layout: Layout) -> None:
        """Number the elements."""
        self._parameters = Parameters(layout)

    def new_kept(self, like: Tensor) -> GradientState:
        """Return room for g_M of a flat tensor."""
        return GradientState(like)

    def gradient(self, gradient: Tensor, chunk: Chunk) -> Tensor:
        """Return the sum of both gradients without the dropped entries."""
        assert self._parameters is not None, "bind() comes first"
        mastered = chunk.flat.kept.gradient[chunk.part]
        fed = torch.empty_like(gradient)
        for part in spans(gradient.numel()):  # foreign optimizers take a whole tensor as one chunk
            here = slice(chunk.part.start + part.start, chunk.part.start + part.stop)
            numbers = self._parameters.elements(chunk.flat.index, here, gradient.device)
            draws = uniform(numbers, self._seed, chunk.step.index)
            fed[part] = sign_dropout(gradient[part], mastered[part], draws)
        return fed
