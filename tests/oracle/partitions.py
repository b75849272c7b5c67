"""Parameters cut into flat tensors as ZeRO cuts them, in one optimizer or over several optimizers in lockstep."""

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cpl_ray.layout import Layout, Piece
from cpl_ray.methods.base import Method
from cpl_ray.optimizer import CPLOptimizer, Mode

Values = dict[str, Tensor]


class Cut:
    """Parameters laid end to end, then padding, cut into flat tensors of given sizes."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], sizes: Sequence[int]) -> None:
        self.shapes, self.sizes = shapes, list(sizes)
        self.padding = sum(sizes) - sum(math.prod(shape) for shape in shapes.values())
        assert self.padding >= 0

    def layout(self, flats: Sequence[int]) -> Layout:
        """Return the layout of an optimizer that holds these of the flat tensors."""
        pieces: list[list[Piece]] = [[] for _ in self.sizes]
        first = 0
        for name, shape in self.shapes.items():
            place = 0
            for flat, size in enumerate(self.sizes):
                start, stop = max(first, place), min(first + math.prod(shape), place + size)
                if start < stop:
                    pieces[flat].append(Piece(name, shape, start - first, slice(start - place, stop - place)))
                place += size
            first += math.prod(shape)
        return Layout(self.shapes, tuple(tuple(pieces[flat]) for flat in flats))

    def flats(self, values: Values) -> list[Tensor]:
        """Cut values of all parameters."""
        parts = [values[name].reshape(-1) for name in self.shapes]
        parts.append(torch.zeros(self.padding, dtype=parts[0].dtype))
        return [flat.clone() for flat in torch.cat(parts).split(self.sizes)]

    def join(self, flats: Sequence[Tensor]) -> Values:
        """Put the parameters together again."""
        whole, first, joined = torch.cat([flat.detach() for flat in flats]), 0, {}
        for name, shape in self.shapes.items():
            joined[name] = whole[first : first + math.prod(shape)].view(shape)
            first += math.prod(shape)
        return joined


def train(
    cut: Cut, start: Values, gradients: Sequence[Values], method: Callable[[], Method], ranks: int = 1, **options: Any
) -> Values:
    """Train by `gradients` on `ranks` optimizers, each with an equal number of the flat tensors, each in a thread."""
    flats = [torch.nn.Parameter(flat) for flat in cut.flats(start)]
    pushes = [cut.flats(gradient) for gradient in gradients]
    per_rank = len(flats) // ranks
    barrier, slots = threading.Barrier(ranks), [torch.zeros(0)] * ranks
    failures: list[BaseException] = []

    def work(rank: int) -> None:
        def total(tensor: Tensor) -> Tensor:
            slots[rank] = tensor
            barrier.wait(60)
            result = torch.stack(slots).sum(0)
            barrier.wait(60)
            return result

        try:
            mine = range(rank * per_rank, (rank + 1) * per_rank)
            optimizer = CPLOptimizer([flats[i] for i in mine], method=method(), **options)
            optimizer.init_state()
            optimizer.sum_over_partitions = total
            if optimizer.method.needs_layout:
                optimizer.method.bind(cut.layout(mine))
            for index, push in enumerate(pushes):
                for i in mine:
                    flats[i].grad = push[i].clone()
                optimizer.update_index = index
                optimizer.start(Mode.UPDATE)
                optimizer.step()
        except BaseException as error:  # a thread's failure must reach the test, and the others must not wait for it
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return cut.join(flats)


def random_values(shapes: dict[str, tuple[int, ...]], seed: int, dtype: torch.dtype = torch.float32) -> Values:
    """Return standard normal values of all parameters."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in shapes.items()}
