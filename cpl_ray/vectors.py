"""Inner products and linear combinations of long vectors, summed in float64 in a fixed order.

The order is part of the definition, so that the compiled functions (vectors.cpp), the eager ones, any number of threads
and any processor give the same bits. Compiled and eager are held against each other at first use, as in fused.py.
"""

import ctypes
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from cpl_ray import native
from cpl_ray.compiled import address, fits, in_pieces, trusted

SPAN = 1 << 18  # elements converted to float64 at a time: 2 MB per vector
BLOCK = 1024  # products that are halved to one number by themselves
SOURCE = Path(__file__).with_suffix(".cpp")


def spans(numel: int) -> Iterator[slice]:
    """Yield slices that cover `numel` elements in order, `SPAN` at a time: bounds scratch memory."""
    for start in range(0, numel, SPAN):
        yield slice(start, min(start + SPAN, numel))


def combination(vectors: Sequence[Tensor], factors: Sequence[float], *, compiled: bool = False) -> Tensor:
    """Return sum_k factor_k * vector_k, `[n]`, added up in float64 and rounded once: projections cancel.

    Args:
        vectors: one or more, `[n]` each.
        factors: one for each.
        compiled: by the compiled function, where there is one for such tensors; the bits are the same.
    """
    found = kernel() if compiled and fits(list(vectors)) else None
    if found is not None:
        return found.combination(vectors, factors)
    total = vectors[0].double() * factors[0]
    for vector, factor in zip(vectors[1:], factors[1:], strict=True):
        total.add_(vector.double(), alpha=factor)
    return total.to(vectors[0].dtype)


def products(vectors: Sequence[Tensor]) -> Tensor:
    """Return the inner products of all pairs i <= j, row by row of the upper triangle: float64 `[k * (k + 1) / 2]`.

    Products of float32 numbers are exact. Those of a block are halved (first half plus second half) until one is left,
    then the blocks' sums likewise; what is missing to a block, and to a power of two of blocks, is zeros.

    Args:
        vectors: k vectors, `[n]` each.
    """
    found = kernel() if fits(list(vectors)) else None
    return halved(block_sums(vectors) if found is None else found.block_sums(vectors))


def block_sums(vectors: Sequence[Tensor]) -> Tensor:
    """Return the sum of each block of products of each pair, float64 `[pairs, blocks]`."""
    numel, count = vectors[0].numel(), len(vectors)
    sums = vectors[0].new_empty(count * (count + 1) // 2, -(-numel // BLOCK), dtype=torch.float64)
    for part in spans(numel):
        blocks = slice(part.start // BLOCK, -(-part.stop // BLOCK))
        missing = -(part.stop - part.start) % BLOCK
        doubles = [torch.nn.functional.pad(vector[part].double(), (0, missing)) for vector in vectors]
        pairs = [doubles[i] * doubles[j] for i in range(count) for j in range(i, count)]
        for row, product in zip(sums, pairs, strict=True):
            row[blocks] = halved(product.view(-1, BLOCK))
    return sums


def halved(values: Tensor) -> Tensor:
    """Return the sums of the rows, `[rows]`: first half plus second half until one is left, zeros beyond the end."""
    size = values.shape[1]
    values = torch.nn.functional.pad(values, (0, (1 << max(size - 1, 0).bit_length()) - size))
    while values.shape[1] > 1:
        half = values.shape[1] // 2
        values = values[:, :half] + values[:, half:]
    return values[:, 0]


class Kernel:
    """The compiled functions over flat, contiguous float32 tensors on the CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        number, pointer = ctypes.c_int64, ctypes.c_void_p
        self._products, self._combination = library.cpl_products, library.cpl_combination
        self._products.argtypes = [number, number, pointer, number, pointer]
        self._combination.argtypes = [number, number, pointer, pointer, pointer]
        self._products.restype = self._combination.restype = None

    def block_sums(self, vectors: Sequence[Tensor]) -> Tensor:
        """Return what the eager `block_sums` does."""
        numel, count = vectors[0].numel(), len(vectors)
        blocks = -(-numel // BLOCK)
        sums = torch.empty(count * (count + 1) // 2, blocks, dtype=torch.float64)

        def piece(start: int, stop: int) -> None:
            places = _places(vectors, start)
            self._products(stop - start, count, places, blocks, sums.data_ptr() + start // BLOCK * 8)

        in_pieces(numel, piece, unit=BLOCK)
        return sums

    def combination(self, vectors: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
        """Return what the eager `combination` does."""
        result, count = torch.empty_like(vectors[0]), len(vectors)
        numbers = (ctypes.c_double * count)(*factors)

        def piece(start: int, stop: int) -> None:
            self._combination(stop - start, count, _places(vectors, start), numbers, address(result, start))

        in_pieces(result.numel(), piece)
        return result


def _places(vectors: Sequence[Tensor], start: int) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(vectors))(*(address(vector, start) for vector in vectors))


@cache
def kernel() -> Kernel | None:
    """Return the compiled functions of this process; None, and one warning, where they cannot be had or disagree."""
    return trusted(lambda: Kernel(native.load(SOURCE)), agrees, "the arithmetic of A-GEM, PCGrad and GEM")


def agrees(found: Kernel) -> bool:
    """Tell whether the compiled functions have the very bits of the eager ones, on a sample that cancels."""
    generator = torch.Generator().manual_seed(0)
    vectors = list(torch.randn(3, 5 * BLOCK + 3, generator=generator))
    vectors.append(3 * vectors[0])  # less three thirds of itself: what is left is where the products were rounded
    cases = [
        ((0, 3), (1.0, -1 / 3)),
        ((0, 1), (0.7, 1.3)),
        ((0, 1, 2), (1.0, 0.1, -1e-3)),
        ((2, 3, 0), (1e-9, 1 / 3, -1.0)),
    ]
    chosen = [([vectors[i] for i in places], factors) for places, factors in cases]
    return torch.equal(found.block_sums(vectors), block_sums(vectors)) and all(
        torch.equal(found.combination(some, factors), combination(some, factors)) for some, factors in chosen
    )
