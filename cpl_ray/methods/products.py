"""Inner products of gradients over all parameters and ranks, for methods that cannot work element by element."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from cpl_ray import vectors
from cpl_ray.compiled import fits
from cpl_ray.errors import NonFiniteError
from cpl_ray.methods.base import Chunk, Flat, StepView


def combination(gradients: Sequence[Tensor], factors: Sequence[float], chunk: Chunk) -> Tensor:
    """Return sum_k factor_k * gradient_k of a chunk, `[n]`, summed in float64 and rounded once: projections cancel."""
    return vectors.combination(gradients, factors, compiled=chunk.step.fused)


def gram(step: StepView, kept: Callable[[Flat, slice], list[Tensor]]) -> Tensor:
    """Return all inner products of the clipped gradient and of what is kept, after one all-reduce.

    Args:
        step: a step that shows every tensor (`Method.whole`).
        kept: gives the kept gradients g_1 .. g_k of a slice of a flat tensor, each `[n]`.

    Returns:
        Gram matrix of (g, g_1, .., g_k), symmetric, float64 `[k + 1, k + 1]` on the CPU, the same on all ranks.

    Raises:
        NonFiniteError: a product is NaN or infinite; raised on every rank, nothing has moved.
    """
    total: Tensor | None = None
    for flat in step.flats:
        for products in _products(flat, kept, fused=step.fused):
            total = products if total is None else total + products
    assert total is not None, "a step without elements"
    upper = step.sum(total).cpu()
    size = round((2 * len(upper) + 0.25) ** 0.5 - 0.5)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    row, column = torch.triu_indices(size, size)
    matrix[row, column] = matrix[column, row] = upper
    matrix[0] *= step.scale
    matrix[:, 0] *= step.scale
    if not matrix.isfinite().all():
        raise NonFiniteError(f"the inner products of the gradients are {matrix.tolist()}; no parameter was moved")
    return matrix


def _products(flat: Flat, kept: Callable[[Flat, slice], list[Tensor]], *, fused: bool) -> Iterator[Tensor]:
    """Yield the upper triangle of one flat tensor's Gram matrix in parts to be added up: the form decides the order."""
    whole = slice(0, flat.gradient.numel())
    gradients = [flat.gradient, *kept(flat, whole)]
    if fused and fits(gradients):
        yield vectors.products(gradients)
        return
    for part in vectors.spans(whole.stop):
        doubles = [gradient[part].double() for gradient in gradients]
        yield torch.stack(
            [torch.dot(doubles[i], doubles[j]) for i in range(len(doubles)) for j in range(i, len(doubles))]
        )
