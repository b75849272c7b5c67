"""The model's parameters inside the flat tensors of a rank: which runs of elements belong to which parameter."""

import math
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate, islice

import torch
from torch import Tensor

from cpl_ray.layout import Layout

RUN = 1 << 18  # longest run handed out at once: bounds scratch memory


class Parameters:
    """Numbers the trainable parameters in the model's order, the same on every rank, and finds their elements.

    Args:
        layout: of this rank's optimizer.
    """

    def __init__(self, layout: Layout) -> None:
        self.names = tuple(layout.shapes)
        self.sizes = torch.tensor([math.prod(shape) for shape in layout.shapes.values()], dtype=torch.float64)
        """Elements of each whole parameter, float64 `[num_parameters]`."""
        numbers = {name: number for number, name in enumerate(self.names)}
        before = [0, *accumulate(math.prod(shape) for shape in layout.shapes.values())]
        self._firsts = [[before[numbers[p.name]] + p.start for p in pieces] for pieces in layout.flats]
        self._pieces = [[(p.part.start, p.part.stop, numbers[p.name]) for p in pieces] for pieces in layout.flats]
        self._stops = [[stop for _, stop, _ in pieces] for pieces in self._pieces]

    def runs(self, flat: int, part: slice) -> Iterator[tuple[int, slice]]:
        """Yield the number of a parameter and where its elements lie in a flat tensor, inside `part`, in order.

        Args:
            flat: number of the flat tensor.
            part: of the flat tensor; padding in it belongs to no parameter.
        """
        for start, stop, number in islice(self._pieces[flat], bisect_right(self._stops[flat], part.start), None):
            if start >= part.stop:
                return
            yield number, slice(max(start, part.start), min(stop, part.stop))

    def elements(self, flat: int, part: slice, device: torch.device) -> Tensor:
        """Return each element's number in the whole model, parameters one after the other; padding has -1.

        Args:
            flat: number of the flat tensor.
            part: of the flat tensor.
            device: of the result, int64 `[num_elements]`.
        """
        elements = torch.full((part.stop - part.start,), -1, dtype=torch.int64, device=device)
        begin = bisect_right(self._stops[flat], part.start)
        for index, (_, run) in enumerate(self.runs(flat, part), start=begin):
            first = self._firsts[flat][index] + run.start - self._pieces[flat][index][0]
            numbers = torch.arange(first, first + run.stop - run.start, device=device)
            elements[run.start - part.start : run.stop - part.start] = numbers
        return elements

    def all_runs(self, flat: int) -> Iterator[tuple[int, slice]]:
        """Yield what `runs` yields for a whole flat tensor, in runs of at most `RUN` elements."""
        for start, stop, number in self._pieces[flat]:
            for first in range(start, stop, RUN):
                yield number, slice(first, min(first + RUN, stop))

    def spread(self, values: Tensor, flat: int, part: slice) -> Tensor:
        """Return each element's value of its parameter, `[num_elements]` of a slice of a flat tensor; padding has 0.

        Args:
            values: one per parameter, `[num_parameters]`.
            flat: number of the flat tensor.
            part: of the flat tensor.
        """
        spread = torch.zeros(part.stop - part.start, dtype=values.dtype, device=values.device)
        for number, run in self.runs(flat, part):
            spread[run.start - part.start : run.stop - part.start] = values[number]
        return spread
