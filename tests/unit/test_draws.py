"""Random numbers by element: uniform, independent, and the same wherever an element lies."""

import torch

from cpl_ray.layout import Layout, Piece
from cpl_ray.methods.draws import uniform
from cpl_ray.methods.parameters import Parameters


def test_uniform_and_independent() -> None:
    numbers = torch.arange(200_000)
    draws = uniform(numbers, 0, 0)
    assert float(draws.min()) >= 0
    assert float(draws.max()) < 1
    histogram = torch.histc(draws, bins=20, min=0, max=1) / len(numbers)
    assert float((histogram - 0.05).abs().max()) < 0.003
    others = [uniform(numbers, 0, 1), uniform(numbers, 1, 0), torch.roll(draws, 1)]
    for other in others:
        correlation = torch.corrcoef(torch.stack([draws, other]))[0, 1]
        assert abs(float(correlation)) < 0.01
    assert torch.equal(uniform(numbers[777:999], 0, 0), draws[777:999])


def test_elements_have_one_number_wherever_they_lie() -> None:
    shapes = {"a": (3, 4), "b": (5,)}
    whole = Parameters(Layout(shapes, ((Piece("a", (3, 4), 0, slice(0, 12)), Piece("b", (5,), 0, slice(12, 17))),)))
    assert whole.elements(0, slice(0, 17), torch.device("cpu")).tolist() == list(range(17))
    rank = Parameters(Layout(shapes, ((Piece("a", (3, 4), 8, slice(0, 4)), Piece("b", (5,), 0, slice(6, 11))),)))
    assert rank.elements(0, slice(2, 13), torch.device("cpu")).tolist() == [10, 11, -1, -1, 12, 13, 14, 15, 16, -1, -1]
