"""A-GEM, PCGrad, GEM and GradDrop against their published formulas, by hand and by independent solutions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from cpl_ray.config import Config
from cpl_ray.errors import ConfigError, NonFiniteError
from cpl_ray.layout import whole_layout
from cpl_ray.mastered import CHUNK
from cpl_ray.methods import build
from cpl_ray.methods.base import Flat, Method, StepView, UpdateStats
from cpl_ray.methods.draws import uniform
from cpl_ray.methods.gem import Gem, GradientMemory, dual
from cpl_ray.methods.graddrop import GradDrop, positive_share, sign_dropout
from cpl_ray.methods.products import gram
from cpl_ray.methods.projections import AGem, PCGrad
from cpl_ray.optimizer import CPLOptimizer, Mode
from cpl_ray.wrapped import WrappedOptimizer
from tests.oracle.gradients import fed, nearest_in_cone

VALUES = st.floats(-8, 8, width=32).map(lambda value: 0.0 if abs(value) < 1e-6 else value)


def vectors(count: int, size: int = 6) -> st.SearchStrategy[list[list[float]]]:
    return st.lists(st.lists(VALUES, min_size=size, max_size=size), min_size=count, max_size=count)


def double(*rows: list[float]) -> list[Tensor]:
    return [torch.tensor(row, dtype=torch.float64) for row in rows]


@given(vectors(2))
def test_agem_removes_exactly_the_conflict(rows: list[list[float]]) -> None:
    mastered, injection = double(*rows)
    result = fed(AGem(), [mastered], injection)
    if torch.dot(mastered, injection) >= 0:
        assert torch.equal(result, injection)
    else:
        assert abs(float(torch.dot(result, mastered))) <= 1e-12 * float(mastered.norm() * injection.norm())
        nearest = nearest_in_cone(injection.numpy(), mastered.numpy()[None])
        np.testing.assert_allclose(result.numpy(), nearest, rtol=1e-9, atol=1e-9)


@given(vectors(2))
def test_pcgrad_is_the_sum_of_both_projections(rows: list[list[float]]) -> None:
    mastered, injection = double(*rows)
    result = fed(PCGrad(), [mastered], injection)
    own, other = injection, mastered
    if torch.dot(mastered, injection) < 0:
        own = injection - torch.dot(injection, mastered) / torch.dot(mastered, mastered) * mastered
        other = mastered - torch.dot(injection, mastered) / torch.dot(injection, injection) * injection
    torch.testing.assert_close(result, own + other, rtol=1e-12, atol=1e-12)
    size = float(mastered.norm() * injection.norm())
    assert float(torch.dot(result, mastered)) >= -1e-12 * (size + float(mastered.norm()) ** 2)
    assert float(torch.dot(result, injection)) >= -1e-12 * (size + float(injection.norm()) ** 2)


@given(vectors(5))
def test_gem_is_the_nearest_gradient_without_conflict(rows: list[list[float]]) -> None:
    injection, *memory = double(*rows)
    constraints = torch.stack(memory).numpy()
    spread = np.linalg.svd(constraints, compute_uv=False)
    assume(not ((spread > 1e-12) & (spread < 1e-3)).any())  # dependent or clearly independent
    result = fed(Gem(4), memory, injection)
    if (constraints @ injection.numpy() >= 0).all():
        assert torch.equal(result, injection)
    else:
        nearest = nearest_in_cone(injection.numpy(), constraints)
        np.testing.assert_allclose(result.numpy(), nearest, atol=1e-5 * float(injection.norm()))


def test_pinned_projections() -> None:
    mastered, injection = double([3.0, 4.0], [5.0, -10.0])  # dot -25, squares 25 and 125
    assert fed(AGem(), [mastered], injection).tolist() == [8.0, -6.0]
    torch.testing.assert_close(fed(PCGrad(), [mastered], injection), double([12.0, -4.0])[0], rtol=0, atol=1e-12)
    # g conflicts with both axes; the nearest in their quadrant is the origin, v* = (1, 2)
    axes = double([1.0, 0.0], [0.0, 1.0])
    torch.testing.assert_close(fed(Gem(2), axes, double([-1.0, -2.0])[0]), double([0.0, 0.0])[0], rtol=0, atol=1e-9)
    with_margin = fed(Gem(2, margin=0.5), axes, double([-1.0, 3.0])[0])
    torch.testing.assert_close(with_margin, double([0.5, 3.5])[0], rtol=0, atol=1e-9)
    assert fed(Gem(2, margin=0.5), axes, double([1.0, 3.0])[0]).tolist() == [1.0, 3.0]  # nothing violated


def test_gem_with_one_constraint_is_agem() -> None:
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        mastered, injection = torch.randn(2, 50, dtype=torch.float64, generator=generator)
        torch.testing.assert_close(fed(Gem(1), [mastered], injection), fed(AGem(), [mastered], injection))


@pytest.mark.parametrize(
    "memory",
    [
        [[1.0, 0.0, 0.0]] * 4,
        [[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [2.0, 0.0, 0.0]],
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [3.0, 2.0, 0.0]],
        [[1e-20, 0.0, 0.0], [0.0, 1e12, 0.0], [1e-20, 1e-20, 0.0], [1.0, 1.0, 0.0]],
        [[0.0, 0.0, 0.0]] * 4,
    ],
    ids=["equal", "opposite and zero", "dependent", "scales", "all zero"],
)
def test_gem_copes_with_any_gram_matrix(memory: list[list[float]]) -> None:
    constraints, gradient = np.array(memory), np.array([-1.0, -2.0, 5.0])
    multipliers = dual(constraints @ constraints.T, constraints @ gradient)
    assert (multipliers >= 0).all()
    units = constraints / np.maximum(np.linalg.norm(constraints, axis=1, keepdims=True), 1e-300)
    np.testing.assert_allclose(gradient + constraints.T @ multipliers, nearest_in_cone(gradient, units), atol=1e-9)


def test_gem_starts_anew_with_fewer_parts() -> None:
    state = GradientMemory(torch.zeros(2), slots=3)
    for value in (1.0, 2.0, 3.0):
        state.capture(torch.full((2,), value))
    assert state.gradients[:, 0].tolist() == [1.0, 2.0, 3.0]
    state.capture(torch.full((2,), 4.0))  # before any update: round robin
    assert state.gradients[:, 0].tolist() == [4.0, 2.0, 3.0]
    state.use()
    for value in (5.0, 6.0):
        state.capture(torch.full((2,), value))
    assert state.gradients[:, 0].tolist() == [5.0, 6.0, 0.0]
    assert state.sign(slice(0, 1)).tolist() == [1.0]


def test_graddrop_by_hand() -> None:
    injection, mastered = torch.tensor([[3.0, -3.0, 2.0, -2.0, 0.0, 1.0], [-1.0, 1.0, 1.0, -1.0, 0.0, -1.0]])
    assert positive_share(injection, mastered).tolist() == [0.75, 0.25, 1.0, 0.0, 0.5, 0.5]
    low = sign_dropout(injection, mastered, torch.full((6,), 0.1))
    assert low.tolist() == [3.0, 1.0, 3.0, -3.0, 0.0, 1.0]
    high = sign_dropout(injection, mastered, torch.full((6,), 0.9))
    assert high.tolist() == [-1.0, -3.0, 3.0, -3.0, 0.0, -1.0]
    assert sign_dropout(injection, mastered, torch.zeros(6))[3] == -3.0  # U = 0 drops no agreeing entries


def test_graddrop_keeps_signs_as_often_as_p_says() -> None:
    size = 100_000
    injection, mastered = torch.full((size,), 3.0), torch.full((size,), -1.0)
    result = fed(GradDrop(seed=5), [mastered], injection)
    assert set(result.tolist()) == {3.0, -1.0}
    assert abs(float((result > 0).double().mean()) - 0.75) < 0.006  # four standard deviations
    expected = torch.where(uniform(torch.arange(size), 5, 0) < 0.75, injection, mastered)
    assert torch.equal(result, expected)


METHODS: dict[str, tuple[type[Method], tuple[Any, ...], int]] = {
    "agem": (AGem, (), 1),
    "pcgrad": (PCGrad, (), 1),
    "gem": (Gem, (3, 0.1), 3),
    "graddrop": (GradDrop, (1,), 1),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("sizes", [[CHUNK + 50], [CHUNK - 7, 57], [11, 200, CHUNK - 161]])
def test_sharding_changes_no_more_than_rounding(name: str, sizes: list[int]) -> None:
    cls, arguments, parts = METHODS[name]
    generator = torch.Generator().manual_seed(1)
    total = sum(sizes)
    mastered = list(torch.randn(parts, total, generator=generator))
    injection = torch.randn(total, generator=generator) - 0.3 * mastered[0]
    whole = fed(cls(*arguments), mastered, injection)
    cut = fed(cls(*arguments), mastered, injection, sizes=sizes)
    assert not torch.equal(whole, injection)
    if name == "graddrop":
        assert torch.equal(cut, whole)
    else:
        torch.testing.assert_close(cut, whole, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("name", "clipped"), [("agem", False), ("pcgrad", True), ("graddrop", True), ("gem", False)])
def test_what_is_clipped(name: str, clipped: bool) -> None:
    mastered, injection = torch.tensor([[3.0, 4.0, 0.0], [-4.0, 0.0, 3.0]])
    cls, arguments, _ = METHODS[name]
    scale = 1.0 / (5.0 + 1e-6)
    expected = fed(cls(*arguments), [mastered * scale if clipped else mastered], injection * scale)
    torch.testing.assert_close(fed(cls(*arguments), [mastered], injection, max_grad_norm=1.0), expected)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_kept_survives_a_checkpoint_and_takes_four_bytes_per_gradient(name: str) -> None:
    cls, arguments, parts = METHODS[name]
    generator = torch.Generator().manual_seed(2)
    gradients = torch.randn(parts + 1, 40, generator=generator)
    results = []
    saved: dict[str, Tensor] = {}
    for restored in (False, True):
        param = torch.nn.Parameter(torch.zeros(40))
        method = cls(*arguments)
        optimizer = CPLOptimizer([param], name="sgd", lr=1.0, method=method)
        if restored:
            optimizer.load_mastered_tensors(saved)  # before the first sight, as under ZeRO 3
        optimizer.init_state()
        if method.needs_layout:
            method.bind(whole_layout([("w", param)], optimizer.flat_params))
        for gradient in gradients[:0] if restored else gradients[:-1]:
            param.grad = gradient.clone()
            optimizer.start(Mode.CAPTURE)
            optimizer.step()
        assert optimizer.has_mastered
        saved = {key: tensor.clone() for key, tensor in optimizer.mastered_tensors().items()}
        param.grad = gradients[-1].clone()
        optimizer.start(Mode.UPDATE)
        optimizer.step()
        results.append(param.detach())
    assert torch.equal(results[0], results[1])
    assert sum(tensor.numel() * tensor.element_size() for tensor in saved.values()) == 40 * 4 * parts


@pytest.mark.parametrize("name", METHODS)
def test_moves_against_the_mastered_gradient_are_counted(name: str) -> None:
    cls, arguments, parts = METHODS[name]
    param = torch.nn.Parameter(torch.zeros(3))
    method = cls(*arguments)
    optimizer = CPLOptimizer([param], name="sgd", lr=1.0, method=method)
    optimizer.init_state()
    if method.needs_layout:
        method.bind(whole_layout([("w", param)], optimizer.flat_params))
    for mode in [Mode.CAPTURE] * parts + [Mode.UPDATE]:
        param.grad = torch.tensor([2.0, 0.5, 0.0] if mode is Mode.CAPTURE else [1.0, -0.75, 1.0])
        optimizer.start(mode)
        optimizer.step()
    down = torch.sign(-param.detach())
    assert optimizer.stats.to_dict()["moved_against"] == int((down * torch.tensor([1.0, 1.0, 0.0]) < 0).sum())


def test_partitions_add_their_products_in_one_reduction() -> None:
    gradients = torch.randn(3, 50, generator=torch.Generator().manual_seed(6))
    expected = gradients.double() @ gradients.double().T
    expected[0] *= 0.5
    expected[:, 0] *= 0.5
    local: list[Tensor] = []

    def products(part: slice, total: Callable[[Tensor], Tensor]) -> Tensor:
        own = gradients[:, part]
        flat = Flat(0, torch.zeros(own.shape[1]), own[0], {}, {}, None)
        return gram(StepView(0, [flat], 0.5, total, UpdateStats()), lambda _, run: list(own[1:, run]))

    def record(tensor: Tensor) -> Tensor:
        local.append(tensor.clone())
        return tensor

    for part in (slice(0, 20), slice(20, 50)):
        products(part, record)
    assert len(local) == 2
    result = products(slice(0, 20), lambda tensor: tensor + local[1])
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


def test_non_finite_products_are_refused_before_anything_moves() -> None:
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = CPLOptimizer([param], lr=1.0, method=Gem(1))  # gradients unchecked, as partitions come from ZeRO
    for mode, value in ((Mode.CAPTURE, 1.0), (Mode.UPDATE, float("nan"))):
        param.grad = torch.full((3,), value)
        optimizer.start(mode)
        if mode is Mode.UPDATE:
            with pytest.raises(NonFiniteError, match="no parameter was moved"):
                optimizer.step()
        else:
            optimizer.step()
    assert torch.equal(param, torch.ones(3))


def test_methods_of_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    def method(rule: str, **settings: Any) -> Method:
        values = {"model": "m", "train": {"rule": rule, "seed": 9}, "method": settings}
        return build.build_method(Config.model_validate(values))

    assert [type(method(rule)) for rule in METHODS] == [cls for cls, _, _ in METHODS.values()]
    assert method("gem", memory=7).captures_per_refresh == 7
    injection, mastered = torch.ones(20), -torch.ones(20)
    with_seed = fed(method("graddrop"), [mastered], injection)
    assert torch.equal(with_seed, fed(GradDrop(9), [mastered], injection))
    assert fed(method("gem", memory=1, margin=1.5), [mastered], injection).tolist() == pytest.approx([-1.5] * 20)
    monkeypatch.delitem(build.METHODS, "agem")
    with pytest.raises(ConfigError, match=r"train\.rule=agem is not available; valid are none, cpl"):
        method("agem")


def test_a_long_chunk_of_a_foreign_optimizer_is_drawn_as_short_ones() -> None:
    size = CHUNK + 100  # in spans of vectors.SPAN
    generator = torch.Generator().manual_seed(4)
    gradients = torch.randn(2, size, generator=generator)
    param, method = torch.nn.Parameter(torch.zeros(size)), GradDrop(0)
    optimizer = WrappedOptimizer([param], torch.optim.SGD, lr=1.0, method=method)
    optimizer.init_state()
    method.bind(whole_layout([("w", param)], optimizer.flat_params))
    for mode, gradient in ((Mode.CAPTURE, gradients[0]), (Mode.UPDATE, gradients[1])):
        param.grad = gradient.clone()
        optimizer.start(mode)
        optimizer.step()
    assert torch.equal(-param.detach(), fed(GradDrop(0), [gradients[0]], gradients[1]))
