"""Samples that follow from a row's own seed, with the probabilities that the temperature asks for."""

import math
from collections import Counter

import pytest
import torch

from cpl_ray.sampling import GumbelNoise, row_seed


def draws(noise: GumbelNoise, row: int, logits: torch.Tensor, number: int) -> list[int]:
    return [int(noise(row, logits).argmax()) for _ in range(number)]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_those_of_the_softmax(temperature: float) -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, -float("inf")])
    number = 4000
    counts = Counter(draws(GumbelNoise([7], temperature), 0, logits, number))
    for token, share in enumerate(torch.softmax(logits / temperature, 0).tolist()):
        # five standard deviations of a binomial count
        assert abs(counts[token] - number * share) <= 5 * math.sqrt(number * share * (1 - share))


def test_a_row_draws_the_same_whatever_the_others_do() -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    alone = draws(GumbelNoise([11], 1.0), 0, logits, 20)
    together = GumbelNoise([3, 11, 5], 1.0)
    found = []
    for step in range(20):
        together(0, logits)
        found += draws(together, 1, logits, 1)
        if step < 4:  # the last row ends early
            together(2, logits)
    assert found == alone
    assert draws(GumbelNoise([12], 1.0), 0, logits, 20) != alone


def test_seeds_follow_from_seed_and_name() -> None:
    seeds = {row_seed(seed, f"proposed-{index}") for seed in range(20) for index in range(50)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert row_seed(0, "a") == row_seed(0, "a")


def test_temperature_must_be_above_zero() -> None:
    with pytest.raises(ValueError, match="temperature is 0"):
        GumbelNoise([1], 0.0)
