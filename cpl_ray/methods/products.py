"""Inner products of gradients over all parameters and ranks, for methods that cannot work element by element."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from cpl_ray.errors import NonFiniteError
from cpl_ray.methods.base import Flat, StepView

SPAN = 1 << 18  # elements converted to float64 at a time: 2 MB per vector


def spans(numel: int) -> Iterator[slice]:
    """Yield slices that cover `numel` elements in order, `SPAN` at a time: bounds scratch memory."""
    for start in range(0, numel, SPAN):
        yield slice(start, min(start + SPAN, numel))


def combination(vectors: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
    """Return sum_k factor_k * vector_k, `[n]`, added up in float64 and rounded once: projections cancel."""
    total = vectors[0].double() * factors[0]
    for vector, factor in zip(vectors[1:], factors[1:], strict=True):
        total.add_(vector.double(), alpha=factor)
    return total.to(vectors[0].dtype)


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
        for part in spans(flat.gradient.numel()):
            vectors = [vector.double() for vector in (flat.gradient[part], *kept(flat, part))]
            rows = [torch.dot(vectors[i], vectors[j]) for i in range(len(vectors)) for j in range(i, len(vectors))]
            products = torch.stack(rows)
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
