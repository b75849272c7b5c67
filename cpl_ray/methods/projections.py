"""A-GEM and PCGrad: gradients that conflict as a whole are made orthogonal to each other before they are fed."""

from typing import ClassVar

from torch import Tensor

from cpl_ray.mastered import GradientState
from cpl_ray.methods.base import Chunk, Method, StepView
from cpl_ray.methods.products import combination, gram


class AGem(Method):
    """A-GEM (Chaudhry et al. 2019, arXiv 1812.00420, eq. 11): g~ = g - (g.g_M / g_M.g_M) g_M if g.g_M < 0, else g."""

    whole: ClassVar[bool] = True

    def __init__(self) -> None:
        self._along = 0.0  # how much of g_M is taken off

    def new_kept(self, like: Tensor) -> GradientState:
        """Return room for g_M of a flat tensor."""
        return GradientState(like)

    def begin(self, step: StepView) -> None:
        """Find the coefficient of the projection."""
        (_, dot), (_, square) = gram(step, lambda flat, part: [flat.kept.gradient[part]]).tolist()
        self._along = dot / square if dot < 0 else 0.0

    def gradient(self, gradient: Tensor, chunk: Chunk) -> Tensor:
        """Return the gradient itself where nothing conflicts, else its projection."""
        if not self._along:
            return gradient
        return combination([gradient, chunk.flat.kept.gradient[chunk.part]], [1.0, -self._along], chunk)


class PCGrad(Method):
    """PCGrad (Yu et al. 2020, arXiv 2001.06782, Alg. 1) of the two tasks injection and mastered: the fed sum of

    g_I - (g_I.g_M / g_M.g_M) g_M  and  g_M - (g_I.g_M / g_I.g_I) g_I  if g_I.g_M < 0, else of g_I and g_M. Each is
    projected off the other as it was, so the order of the tasks does not matter.
    """

    whole: ClassVar[bool] = True
    clips_mastered: ClassVar[bool] = True

    def __init__(self) -> None:
        self._factors = (1.0, 1.0)  # of g_I and g_M in the sum

    def new_kept(self, like: Tensor) -> GradientState:
        """Return room for g_M of a flat tensor."""
        return GradientState(like)

    def begin(self, step: StepView) -> None:
        """Find both coefficients."""
        (injection, dot), (_, mastered) = gram(step, lambda flat, part: [flat.kept.gradient[part]]).tolist()
        self._factors = (1.0 - dot / injection, 1.0 - dot / mastered) if dot < 0 else (1.0, 1.0)

    def gradient(self, gradient: Tensor, chunk: Chunk) -> Tensor:
        """Return the sum of both gradients, projected where they conflict."""
        return combination([gradient, chunk.flat.kept.gradient[chunk.part]], self._factors, chunk)
