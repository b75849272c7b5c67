"""The momentum-filtered optimizer: within each parameter only the elements of largest momentum move."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from cpl_ray.layout import Layout
from cpl_ray.methods.base import Chunk, Method, StepView
from cpl_ray.methods.parameters import Parameters

_DIGIT = 8  # bits decided per pass over the elements
_VALUES = 1 << _DIGIT


class MoFO(Method):
    """theta_j <- theta_j - lr * u_j * 1[|m_j| among the largest of its parameter], m the momentum after this gradient.

    Chen et al. 2024 (arXiv 2407.20999), Algorithm 1, with one partition per parameter tensor. k = density * n, rounded
    down, at least 1. Exact under any partitioning: the k-th largest |m| of each parameter is selected over all ranks.
    All elements equal to it move, so in a tie more than k. Decay is part of u: what is filtered out does not decay.

    Args:
        density: share of the elements of each parameter that moves.
    """

    two_passes = True
    needs_layout = True

    def __init__(self, density: float) -> None:
        self._density = density

    def bind(self, layout: Layout) -> None:
        """Learn the parameters' sizes."""
        self._parameters = Parameters(layout)

    def between(self, step: StepView) -> None:
        """Find the k-th largest |m| of each parameter, as a number that orders like it."""

        def runs() -> Iterator[tuple[int, Tensor]]:
            for flat in step.flats:
                moment = flat.state["exp_avg"].view(-1)
                for number, run in self._parameters.all_runs(flat.index):
                    yield number, order_keys(moment[run])

        ranks = (self._parameters.sizes * self._density).floor().clamp(min=1).to(step.device)
        wide = step.flats[0].state["exp_avg"].dtype == torch.float64
        self._thresholds = largest_keys(runs, ranks, 64 if wide else 32, step.sum)

    def update(self, update: Tensor, chunk: Chunk) -> Tensor:
        """Return the update, zero where |m| is below its parameter's threshold."""
        keys = order_keys(chunk.flat.state["exp_avg"].view(-1)[chunk.part])
        return update * (keys >= self._parameters.spread(self._thresholds, chunk.flat.index, chunk.part))


def order_keys(values: Tensor) -> Tensor:
    """Return int64 numbers in the order of |values|: the bits of the float, 64 for float64, else 32; same shape."""
    if values.dtype == torch.float64:
        return values.abs().view(torch.int64)
    return values.float().abs().view(torch.int32).long()


def largest_keys(
    runs: Callable[[], Iterator[tuple[int, Tensor]]], ranks: Tensor, bits: int, total: Callable[[Tensor], Tensor]
) -> Tensor:
    """Select for each parameter the key of which `ranks` keys are as large or larger: the k-th largest.

    A radix select: each pass over the keys counts, for every parameter at once, how often each value of the next eight
    bits follows the bits decided so far, adds the counts up over ranks, and decides these eight.

    Args:
        runs: yields the number of a parameter and some of its keys `[n]`, anew at each call; all keys of a rank in all.
        ranks: k of each parameter, from 1 to its size, float64 `[num_parameters]`.
        bits: width of the keys, which are not negative; a multiple of eight.
        total: adds a float64 tensor up over the ranks that hold the other keys.

    Returns:
        int64 `[num_parameters]`; 0 for a parameter without keys.
    """
    left = ranks.clone()
    found = torch.zeros(len(ranks), dtype=torch.int64, device=ranks.device)
    for shift in range(bits - _DIGIT, -1, -_DIGIT):
        counts = torch.zeros(len(ranks), _VALUES, dtype=torch.float64, device=ranks.device)
        for number, keys in runs():
            if shift + _DIGIT < bits:
                keys = keys[keys >> (shift + _DIGIT) == found[number]]
            counts[number] += torch.bincount((keys >> shift) & (_VALUES - 1), minlength=_VALUES)
        reaching = total(counts).flip(1).cumsum(1).flip(1)  # keys with this value of the bits or a larger one
        value = ((reaching >= left[:, None]).sum(1) - 1).clamp(min=0)
        larger = torch.cat([reaching, torch.zeros_like(reaching[:, :1])], dim=1)
        left -= larger.gather(1, value[:, None] + 1)[:, 0]
        found = (found << _DIGIT) | value
    return found
