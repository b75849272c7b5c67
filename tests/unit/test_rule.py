"""The rule: its guarantee, its polarity, and what rounding must not change."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cpl_ray.errors import NonFiniteError
from cpl_ray.mastered import CHUNK, FullState, SignState
from cpl_ray.methods.collaborative import Collaborative
from cpl_ray.optimizer import CPLOptimizer, Mode
from cpl_ray.rule import (
    adam_direction,
    adam_moments_,
    collaborative,
    contribution,
    gradient_similarity,
    masked_step_,
    momentum_update_,
    predicted_change,
)

FLOATS = st.floats(-(2.0**50), 2.0**50, width=32)


@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=50))
def test_masked_step_never_raises_the_mastered_loss_to_first_order(pairs: list[tuple[float, float]]) -> None:
    update, mastered = torch.tensor(pairs).T.contiguous()
    param = torch.zeros(len(pairs))
    mask = masked_step_(param, update.clone(), mastered, lr=1e-3)
    assert float((-param.double() * mastered.double()).sum()) >= 0
    assert torch.equal(param != 0, mask & (update * 1e-3 != 0))
    assert float(predicted_change(update, mastered, 1e-3)) <= 0


def test_polarity_and_zero() -> None:
    update = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, 0.0, 0.0])
    mastered = torch.tensor([2.0, -2.0, 0.0, -2.0, 2.0, 2.0, 0.0])
    expected = torch.tensor([True, False, True, True, False, True, True])
    assert torch.equal(collaborative(update, mastered), expected)
    assert torch.equal(collaborative(update, torch.sign(mastered).to(torch.int8)), expected)


@pytest.mark.parametrize(("dtype", "tiny"), [(torch.float32, 1e-23), (torch.float16, 1e-4), (torch.bfloat16, 1e-23)])
def test_signs_are_compared_where_the_product_underflows(dtype: torch.dtype, tiny: float) -> None:
    update, mastered = torch.tensor([tiny], dtype=dtype), torch.tensor([-tiny], dtype=dtype)
    assert bool((update * mastered >= 0).all())  # the literal rule is fooled
    assert not bool(collaborative(update, mastered).any())


def test_non_finite_gradients_are_refused_before_anything_moves() -> None:
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = CPLOptimizer([param], lr=1.0, whole_gradients=True)
    for mode in (Mode.CAPTURE, Mode.UPDATE, Mode.PLAIN):
        for bad in (float("nan"), float("inf")):
            param.grad = torch.tensor([1.0, bad, 1.0])
            optimizer.start(mode)
            with pytest.raises(NonFiniteError, match="no parameter was moved"):
                optimizer.step()
    assert torch.equal(param, torch.ones(3))
    assert not optimizer.has_mastered


def test_similarity_is_the_sum_of_contributions_and_scales() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(1000), torch.randn(1000)
    s = gradient_similarity(a, b)
    torch.testing.assert_close(s, (a.double() * b.double()).sum())
    torch.testing.assert_close(contribution(b, a).sum(), s)
    assert torch.equal(collaborative(a * 1e15, b), collaborative(a, b * 1e-15))


def test_pinned_updates() -> None:
    gradient = torch.tensor([0.5, -2.0], dtype=torch.float64)
    m, v = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    adam_moments_(gradient, m, v, (0.9, 0.999))
    first = adam_direction(m, v, 1, (0.9, 0.999), 1e-8)
    torch.testing.assert_close(first, torch.tensor([1.0, -1.0], dtype=torch.float64), atol=1e-7, rtol=0)
    adam_moments_(torch.tensor([0.5, 2.0], dtype=torch.float64), m, v, (0.9, 0.999))
    second = adam_direction(m, v, 2, (0.9, 0.999), 1e-8)
    torch.testing.assert_close(second, torch.tensor([1.0, 0.0526315789], dtype=torch.float64), atol=1e-7, rtol=0)
    buffer = torch.tensor([1.0, 1.0], dtype=torch.float64)
    assert momentum_update_(gradient, buffer, 0.9).tolist() == [1.4, -1.1]


def one_step(sizes: list[int], *, mode: Mode = Mode.UPDATE, seed: int = 0, **options: Any) -> list[torch.nn.Parameter]:
    """Two captures and updates on parameters cut as `sizes` from one vector."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(sizes)
    theta, g_m, g = (torch.randn(total, generator=generator) for _ in range(3))
    params = [torch.nn.Parameter(part.clone()) for part in theta.split(sizes)]
    optimizer = CPLOptimizer(params, lr=1e-2, weight_decay=0.1, **options)
    for _ in range(2):
        for gradient, now in ((g_m, Mode.CAPTURE), (g, mode)):
            for param, part in zip(params, gradient.split(sizes), strict=True):
                param.grad = part.clone()
            optimizer.start(now)
            optimizer.step()
    return params


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("sizes", [[1000], [1, 999], [333, 333, 334], [7, 500, 493]])
def test_commutes_bit_exactly_with_sharding(name: str, sizes: list[int]) -> None:
    whole = one_step([1000], name=name)[0]
    assert torch.equal(torch.cat(list(one_step(sizes, name=name))), whole)


def test_commutes_with_chunking_and_padding() -> None:
    size = CHUNK + 13
    whole = one_step([size])[0]
    assert torch.equal(torch.cat(list(one_step([CHUNK - 5, 18]))), whole)
    param = torch.nn.Parameter(torch.zeros(8))
    optimizer = CPLOptimizer([param], weight_decay=0.1)
    for mode in (Mode.CAPTURE, Mode.UPDATE):
        param.grad = torch.zeros(8)
        optimizer.start(mode)
        optimizer.step()
    assert torch.equal(param, torch.zeros(8))
    assert optimizer.stats.to_dict()["zero"] == 8


def test_idle_and_capture_move_nothing() -> None:
    param = torch.nn.Parameter(torch.ones(5))
    optimizer = CPLOptimizer([param], lr=1.0, weight_decay=0.5)
    for mode in (Mode.IDLE, Mode.CAPTURE, Mode.CAPTURE):
        param.grad = torch.full((5,), 3.0)
        optimizer.start(mode)
        optimizer.step()
    assert torch.equal(param, torch.ones(5))
    assert float(optimizer.state[param]["step"]) == 0
    assert not optimizer.state[param]["exp_avg"].any()


def test_moments_are_fed_the_unmasked_gradient() -> None:
    param = torch.nn.Parameter(torch.zeros(2))
    optimizer = CPLOptimizer([param], name="adam", lr=0.1)
    for mode, gradient in ((Mode.CAPTURE, [1.0, -1.0]), (Mode.UPDATE, [1.0, 1.0])):
        param.grad = torch.tensor(gradient)
        optimizer.start(mode)
        optimizer.step()
    torch.testing.assert_close(optimizer.state[param]["exp_avg"], torch.tensor([0.1, 0.1]))
    assert param[0] < 0
    assert param[1] == 0


def test_gradient_mask_is_another_algorithm() -> None:
    masked_update, masked_gradient = one_step([1000])[0], one_step([1000], method=Collaborative(mask_on="gradient"))[0]
    assert not torch.equal(masked_update, masked_gradient)


@pytest.mark.parametrize("state", [SignState, FullState])
def test_statistics_by_hand(state: type[SignState]) -> None:
    param = torch.nn.Parameter(torch.zeros(4))
    optimizer = CPLOptimizer([param], name="sgd", lr=0.5, method=Collaborative(state))

    def step(mode: Mode, gradient: list[float]) -> dict[str, float]:
        param.grad = torch.tensor(gradient)
        optimizer.start(mode)
        optimizer.step()
        return optimizer.stats.to_dict()

    step(Mode.CAPTURE, [1.0, -2.0, 0.0, 3.0])
    first = step(Mode.UPDATE, [1.0, 1.0, 1.0, 0.0])
    assert (first["total"], first["conflict"], first["zero"], first["moved"]) == (4, 1, 2, 2)
    assert first["moved_against"] == 0
    assert "flips" not in first
    second = step(Mode.UPDATE, [-1.0, -1.0, 1.0, 1.0])  # classes of elements 0 and 1 change
    assert (second["flips"], second["flip_of"]) == (2, 4)
    if state is FullState:
        assert second["conflict_mass"] == -1.0
        assert second["predicted_change"] == -0.5 * (2 + 3)
    third = step(Mode.CAPTURE, [1.0, 1.0, 1.0, 1.0])
    assert third["total"] == 0
    assert step(Mode.UPDATE, [-1.0, -1.0, 1.0, 1.0])["flips"] == 1  # survives a capture


def test_mastered_state_round_trip_and_refusal() -> None:
    first = torch.nn.Parameter(torch.zeros(6))
    optimizer = CPLOptimizer([first])
    first.grad = torch.tensor([1.0, -1.0, 0.0, 2.0, -3.0, 0.0])
    optimizer.start(Mode.CAPTURE)
    optimizer.step()
    saved = {key: value.clone() for key, value in optimizer.mastered_tensors().items()}
    second = torch.nn.Parameter(torch.zeros(6))
    other = CPLOptimizer([second])
    other.init_state()
    assert not other.has_mastered
    other.load_mastered_tensors(saved)
    assert other.has_mastered
    assert torch.equal(other.mastered_tensors()["0.planes"], saved["0.planes"])
    with pytest.raises(ValueError, match="another partition"):
        other.load_mastered_tensors({"0.planes": torch.zeros(3, 16, dtype=torch.uint8)})
    saved["0.planes"][1, 0] |= 1 << 6  # of a seventh element, in the same word
    with pytest.raises(ValueError, match="more than 6 elements"):
        other.load_mastered_tensors(saved)


def test_plain_mode_keeps_no_mastered_state() -> None:
    params = one_step([50], mode=Mode.PLAIN)
    assert params[0].abs().sum() > 0
    param = torch.nn.Parameter(torch.zeros(50))
    optimizer = CPLOptimizer([param])
    param.grad = torch.ones(50)
    optimizer.start(Mode.PLAIN)
    optimizer.step()
    assert optimizer.mastered_tensors() == {}
