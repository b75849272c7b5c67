"""Packed booleans: every length, any offset, the order of the bits, and the planes of a state built on them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cpl_ray.bits import pack, unpack
from cpl_ray.mastered import SignState


@given(st.lists(st.booleans(), min_size=1, max_size=200), st.integers(0, 9), st.booleans())
def test_packed_and_unpacked_is_the_same(flags: list[bool], offset: int, strided: bool) -> None:
    whole = torch.tensor([False] * offset + flags)
    given_flags = torch.stack([whole, ~whole], dim=1)[offset:, 0] if strided else whole[offset:]
    packed = pack(given_flags)
    assert packed.dtype == torch.uint8
    assert packed.tolist() == [
        sum(flag << bit for bit, flag in enumerate(flags[start : start + 8])) for start in range(0, len(flags), 8)
    ]
    assert unpack(packed).tolist() == flags + [False] * (-len(flags) % 8)


@given(st.integers(1, 300), st.integers(0, 300), st.integers(0, 300), st.integers(0, 2**31))
def test_any_slice_is_read_as_it_was_written(numel: int, start: int, length: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.randint(-1, 2, (numel,), generator=generator) * torch.rand(numel, generator=generator)
    conflict = torch.rand(numel, generator=generator) < 0.5
    state, part = SignState(gradient), slice(min(start, numel), min(start + length, numel))
    state.capture(gradient)
    assert int(state.classify(slice(None), conflict, mark_flips=True)) == int(conflict.sum())
    assert torch.equal(state.sign(part), torch.sign(gradient[part]).to(torch.int8))
    assert torch.equal(state.conflicting(part), conflict[part])
    assert state.count(part).tolist() == [int(conflict[part].sum())] * 2


def test_what_does_not_fill_whole_bytes_is_not_written() -> None:
    state = SignState(torch.zeros(20))
    state.set_sign(slice(16, 20), torch.ones(4))  # the end
    for part in (slice(4, 16), slice(8, 15)):
        with pytest.raises(ValueError, match="do not fill whole bytes"):
            state.set_sign(part, torch.ones(part.stop - part.start))
    assert state.sign(slice(None)).tolist() == [0] * 16 + [1] * 4
