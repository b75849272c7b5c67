"""Cautious optimizers: only elements whose update agrees with their own gradient move, and further for it."""

import torch
from torch import Tensor

from cpl_ray.layout import Layout
from cpl_ray.methods.base import Chunk, Flat, Method, StepView
from cpl_ray.methods.parameters import Parameters


class Cautious(Method):
    """theta <- theta - lr * u * phi * n / (|phi| + 1) per parameter of n elements, phi_j = 1[u_j * g_j > 0].

    Liang et al. 2024 (arXiv 2411.16085), Algorithm 1, as in the code first released with it: g is what the moments
    were fed, u the optimizer's direction without decoupled decay, which is applied to all elements as it is. The sign
    of u is that of the momentum; without momentum u = g, and only zeros stay. |phi| is counted over all ranks.

    Args:
        decoupled: weight decay is not part of g (adamw).
    """

    two_passes = True
    needs_layout = True

    def __init__(self, *, decoupled: bool) -> None:
        self._decoupled = decoupled

    def bind(self, layout: Layout) -> None:
        """Learn the parameters' sizes."""
        self._parameters = Parameters(layout)

    def between(self, step: StepView) -> None:
        """Count the agreeing elements of each parameter."""
        sizes = self._parameters.sizes.to(step.device)
        counts = torch.zeros_like(sizes)
        for flat in step.flats:
            for number, run in self._parameters.all_runs(flat.index):
                counts[number] += self._agrees(flat, run, step.scale).sum()
        self._factors = sizes / (step.sum(counts) + 1)

    def update(self, update: Tensor, chunk: Chunk) -> Tensor:
        """Return the update, zero where it disagrees with the gradient and scaled where it agrees."""
        flat, part = chunk.flat, chunk.part
        factors = self._parameters.spread(self._factors.to(update.dtype), flat.index, part)
        factors = factors * self._agrees(flat, part, chunk.step.scale)
        decay = flat.group["weight_decay"]
        if not (decay and self._decoupled):
            return update * factors
        return update.sub(chunk.theta, alpha=decay).mul_(factors).add_(chunk.theta, alpha=decay)

    def _agrees(self, flat: Flat, part: slice, scale: float) -> Tensor:
        """Tell where direction and fed gradient have the same sign; zeros agree with nothing; bool `[n]`."""
        fed = flat.gradient[part] * scale
        decay = flat.group["weight_decay"]
        if decay and not self._decoupled:
            fed = fed.add(flat.param.view(-1)[part], alpha=decay)
        moment = flat.state["exp_avg"].view(-1)[part] if "exp_avg" in flat.state else fed
        return torch.sign(moment) * torch.sign(fed) > 0
