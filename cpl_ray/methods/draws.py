"""Random numbers that belong to an element of a parameter and an update, wherever the element lies.

A counter-based generator (the finaliser of SplitMix64, Steele et al. 2014) turns seed, update and the element's number
in the whole model into a uniform number: the same on every world size and ZeRO stage.
"""

import torch
from torch import Tensor

_WEYL = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed number
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def uniform(counter: Tensor, seed: int, update: int) -> Tensor:
    """Return a number in [0, 1) for each counter, float32, `[n]`.

    Args:
        counter: element numbers, int64 `[n]`.
        seed: of the run.
        update: index of the update.
    """
    mixed = counter * _WEYL + _signed(_scramble(seed * 0x632BE59BD9B4E019 + update))
    mixed = (mixed ^ _shifted(mixed, 30)) * _MIX_1
    mixed = (mixed ^ _shifted(mixed, 27)) * _MIX_2
    mixed = mixed ^ _shifted(mixed, 31)
    return _shifted(mixed, 40).to(torch.float32) / (1 << 24)


def _shifted(value: Tensor, bits: int) -> Tensor:
    """Return a logical shift to the right of int64."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _scramble(value: int) -> int:
    value &= (1 << 64) - 1
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & ((1 << 64) - 1)
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & ((1 << 64) - 1)
    return value ^ (value >> 31)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
