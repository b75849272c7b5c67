"""A random mask of given density: what the rule's mask does beyond moving fewer parameters."""

from torch import Tensor

from cpl_ray.layout import Layout
from cpl_ray.methods.base import Chunk, Method
from cpl_ray.methods.draws import uniform
from cpl_ray.methods.parameters import Parameters


class RandomMask(Method):
    """theta_j <- theta_j - lr * u_j * 1[r_j < density], r_j uniform in [0, 1), drawn anew at every update.

    The moments are fed unmasked, as under the rule. The draw belongs to the element, so it is the same on every world
    size and ZeRO stage.

    Args:
        density: expected share of elements that may move.
        seed: of the run.
    """

    needs_layout = True

    def __init__(self, density: float, seed: int) -> None:
        self._density, self._seed = density, seed

    def bind(self, layout: Layout) -> None:
        """Number the elements."""
        self._parameters = Parameters(layout)

    def update(self, update: Tensor, chunk: Chunk) -> Tensor:
        """Return the update, zero where the draw says so."""
        numbers = self._parameters.elements(chunk.flat.index, chunk.part, update.device)
        return update * (uniform(numbers, self._seed, chunk.step.index) < self._density)
