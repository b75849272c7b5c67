"""What compiled functions over tensors share: which tensors they take, threads, and the check at their first use."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from cpl_ray import native

PIECE = 1 << 20  # elements that are worth a thread
K = TypeVar("K")
T = TypeVar("T")
log = logging.getLogger(__name__)


def trusted(make: Callable[[], K], agrees: Callable[[K], bool], what: str) -> K | None:
    """Return compiled functions; None, and a warning, where they cannot be had or disagree.

    Args:
        make: compiles them, or raises CompilerError.
        agrees: tells whether they have the very bits of the eager formulas.
        what: they compute, for the warning.
    """
    try:
        found = make()
        if agrees(found):
            return found
        reason = "its results are not those of this build of torch, bit for bit"
    except native.CompilerError as error:
        reason = str(error)
    log.warning("%s is not compiled, and slower for it, with the same results: %s", what, reason)
    return None


def fits(tensors: list[Tensor], device: str = "cpu") -> bool:
    """Tell whether functions compiled for a type of device take these tensors."""
    return all(t.device.type == device and t.dtype == torch.float32 and t.is_contiguous() for t in tensors)


def address(tensor: Tensor | None, start: int = 0) -> int | None:
    """Return where an element of a contiguous tensor lies; None for none."""
    return None if tensor is None else tensor.data_ptr() + start * tensor.element_size()


def in_pieces(numel: int, do: Callable[[int, int], T], *, unit: int = 1) -> list[T]:
    """Call `do(start, stop)` over all elements, on as many threads as torch would use; ctypes lets go of the lock.

    Args:
        numel: number of elements.
        do: takes a run of elements; all but the last start and stop at multiples of `unit`.
        unit: elements that must stay together.
    """
    threads = max(1, min(torch.get_num_threads(), numel // PIECE))
    bounds = [numel // unit * i // threads * unit for i in range(threads)] + [numel]
    if threads == 1:
        return [do(0, numel)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(do, bounds, bounds[1:]))
