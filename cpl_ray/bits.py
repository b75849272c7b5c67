"""Booleans and signs packed eight to a byte, element i of a run in bit i % 8 of byte i // 8, by whole words."""

from functools import cache

import torch
from torch import Tensor

# eight bytes of 0 or 1 in a word, times this, have their bits in the top byte; the lowest address is the lowest bit
_GATHER = 0x0102040810204080
_ONES = 0x0101010101010101


def pack(flags: Tensor) -> Tensor:
    """Return bool `[n]` as uint8 `[ceil(n / 8)]`; the bits after the last are 0."""
    return _gathered(_words(flags))


def pack_signs(signs: Tensor) -> tuple[Tensor, Tensor]:
    """Return where int8 `[n]` of -1, 0 and 1 is positive and where negative, each packed as by `pack`."""
    words = _words(signs)
    negative = (words >> 7) & _ONES
    return _gathered((words & _ONES) ^ negative), _gathered(negative)


def unpack(packed: Tensor) -> Tensor:
    """Return uint8 `[n]` as bool `[8 * n]`."""
    return torch.index_select(_table(packed.device), 0, packed.to(torch.int32)).view(torch.bool)


def _words(values: Tensor) -> Tensor:
    """Return values of one byte as int64, eight in each."""
    if values.numel() % 8:
        values = torch.nn.functional.pad(values, (0, -values.numel() % 8))
    elif values.storage_offset() % 8 or not values.is_contiguous():
        values = values.clone(memory_format=torch.contiguous_format)
    return values.view(torch.int64)


def _gathered(words: Tensor) -> Tensor:
    return ((words * _GATHER) >> 56).to(torch.uint8)


@cache
def _table(device: torch.device) -> Tensor:
    """Return the eight booleans of every byte, each byte's as one word."""
    bits = [[byte >> bit & 1 for bit in range(8)] for byte in range(256)]
    return torch.tensor(bits, dtype=torch.uint8).view(torch.int64).flatten().to(device)
