"""Rivals that change the gradient alone: their compiled step has the bits and counts of the eager one."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cpl_ray import fused, vectors
from cpl_ray.compiled import PIECE
from cpl_ray.config import Config
from cpl_ray.config_methods import Rule
from cpl_ray.errors import NonFiniteError
from cpl_ray.gradients import Watched
from cpl_ray.live_bytes import LiveBytes
from cpl_ray.methods.anchored import EWC, L2SP
from cpl_ray.methods.base import Fusion, Method
from cpl_ray.methods.build import METHODS as ALL_METHODS
from cpl_ray.methods.build import build_method
from cpl_ray.methods.cautious import Cautious
from cpl_ray.methods.gem import Gem
from cpl_ray.methods.graddrop import GradDrop
from cpl_ray.methods.mofo import MoFO
from cpl_ray.methods.projections import AGem, PCGrad
from cpl_ray.methods.random_mask import RandomMask
from cpl_ray.native import load
from cpl_ray.notices import UNCOMPILED
from cpl_ray.optimizer import CPLOptimizer, Mode
from tests.oracle.steps import OPTIMIZERS, needs_compiler, train, values, without_kernel

METHODS: dict[str, tuple[Callable[[], Method], int]] = {
    "agem": (AGem, 1),
    "pcgrad": (PCGrad, 1),
    "gem": (lambda: Gem(3, 0.1), 3),
    "graddrop": (lambda: GradDrop(1), 1),
    "l2sp": (lambda: L2SP(0.3), 0),
    "ewc": (lambda: EWC(7.0), 1),
}
LENGTHS = [1, 2, 7, 17, 1023, 1024, 1025, 4097, (1 << 18) + 1]
CLIPPED: dict[str, Any] = {"whole_gradients": True, "max_grad_norm": 1e-3}


@needs_compiler
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_bits_and_counts_of_the_eager_path_at_every_length(optimizer: str, name: str) -> None:
    assert fused.kernel("cpu") is not None
    assert vectors.kernel() is not None
    make, captures = METHODS[name]
    for index, numel in enumerate(LENGTHS):
        options: dict[str, Any] = {**OPTIMIZERS[optimizer], "captures": captures, "weight_decay": (0.0, 0.1)[index % 2]}
        options |= CLIPPED if index % 3 else {}
        compiled = train(numel, "always", offset=numel % 5, method=make(), **options)
        assert compiled.equals(without_kernel(numel, "always", method=make(), **options)), numel


@needs_compiler
@given(st.integers(1, 5000), st.integers(0, 20), st.sampled_from(["agem", "pcgrad", "gem"]), st.booleans())
@settings(max_examples=30)
def test_bits_of_the_eager_path_anywhere(numel: int, offset: int, name: str, clips: bool) -> None:
    make, captures = METHODS[name]
    options = {"captures": captures, "steps": 2, "weight_decay": 0.01, **(CLIPPED if clips else {})}
    compiled = train(numel, "always", offset=offset, method=make(), **options)
    assert compiled.equals(without_kernel(numel, "always", method=make(), **options))


@pytest.mark.parametrize("name", METHODS)
def test_as_uncompiled_but_for_rounding(name: str) -> None:
    make, captures = METHODS[name]
    options: dict[str, Any] = {"name": "sgd", "captures": captures, "steps": 2}
    compiled, eager = (train(300_001, form, method=make(), **options) for form in ("always", "never"))
    torch.testing.assert_close(compiled.theta, eager.theta, rtol=1e-6, atol=1e-9)
    assert compiled.counts[0].keys() == eager.counts[0].keys()


def test_the_steps_of_the_tests_conflict() -> None:
    # or the projections would never have been compared
    eager = [train(4097, "always", method=method, name="sgd", steps=2).theta for method in (AGem(), PCGrad())]
    plain = train(4097, "always", method=EWC(0.0), name="sgd", steps=2).theta
    assert not torch.equal(eager[0], plain)
    assert not torch.equal(eager[0], eager[1])


def test_which_methods_are_compiled() -> None:
    assert {make().fusion for make, _ in METHODS.values()} == {Fusion.SHAPED}
    others = (RandomMask(0.5, 0), Cautious(decoupled=True), MoFO(0.5))
    assert {method.fusion for method in others} == {None}
    assert fused.is_fused("auto", AGem().fusion, fused.FUSED_FROM)
    assert not fused.is_fused("auto", AGem().fusion, fused.FUSED_FROM - 1)


def test_small_steps_never_ask_for_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    for module in (fused, vectors):
        monkeypatch.setattr(module, "kernel", lambda *_: asked.append(1))
    for form in ("auto", "never"):
        train(5000, form, method=AGem())
    assert not asked
    train(5000, "always", method=AGem())
    assert asked


@needs_compiler
def test_watching_changes_no_bit() -> None:
    watched = Watched(PCGrad())
    watched.watching = True
    assert train(2999, "always", method=watched).equals(train(2999, "always", method=PCGrad()))
    assert float(watched.formed[0].abs().sum()) > 0


@needs_compiler
def test_threads_change_nothing() -> None:
    threads, numel = torch.get_num_threads(), 2 * PIECE + 5
    torch.set_num_threads(2)
    try:
        two = train(numel, "always", steps=2, method=PCGrad())
    finally:
        torch.set_num_threads(threads)
    assert two.equals(train(numel, "always", steps=2, method=PCGrad()))


@pytest.mark.parametrize("numel", [0, 1, 1023, 1024, 5000, (1 << 18) + 1025])
def test_products_are_the_exact_ones_but_for_rounding(numel: int) -> None:
    own = values(3 * numel, torch.Generator().manual_seed(numel)).view(3, numel)
    doubles = own.double()
    expected = torch.stack([doubles[i] @ doubles[j] for i in range(3) for j in range(i, 3)])
    bound = torch.stack([doubles[i].abs() @ doubles[j].abs() for i in range(3) for j in range(i, 3)])
    assert bool(((vectors.products(list(own)) - expected).abs() <= 1e-13 * bound).all())
    sums = vectors.block_sums(list(own))
    assert sums.shape == (6, -(-numel // vectors.BLOCK))
    if numel:
        start = (sums.shape[1] - 1) * vectors.BLOCK
        torch.testing.assert_close(sums[1, -1], doubles[0, start:] @ doubles[1, start:], rtol=1e-12, atol=1e-18)


def test_halving_by_hand() -> None:
    # 1e16 swallows a single 1: only the stated order, (1e16 - 1e16) + (1 + 1), gives 2
    assert vectors.halved(torch.tensor([[1e16, 1.0, -1e16, 1.0], [1.0, 2.0, 3.0, 0.5]]).double()).tolist() == [2.0, 6.5]
    assert vectors.halved(torch.tensor([[1.0, 2.0, 4.0]]).double()).tolist() == [7.0]


@needs_compiler
def test_sums_in_another_order_are_refused(tmp_path: Path) -> None:
    source = vectors.SOURCE.read_text(encoding="utf-8")
    assert vectors.agrees(vectors.Kernel(load(vectors.SOURCE, ("-O2",))))
    for was, wrong in (
        (
            "(double)a[i] * (double)b[i] + (double)a[i + HALF] * (double)b[i + HALF]",
            "(double)a[2 * i] * (double)b[2 * i] + (double)a[2 * i + 1] * (double)b[2 * i + 1]",
        ),
        ("__builtin_fma((double)other[i], factor, total[i])", "(float)((double)other[i] * factor) + total[i]"),
        ("__builtin_fma((double)other[i], factor, total[i])", "(double)other[i] * factor + total[i]"),
    ):
        assert source.count(was) == 1
        other = tmp_path / "another.cpp"
        other.write_text(source.replace(was, wrong), encoding="utf-8")
        assert not vectors.agrees(vectors.Kernel(load(other))), wrong


@pytest.mark.parametrize("compiled", [True, False])
def test_non_finite_products_are_refused_before_anything_moves(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(vectors, "kernel", lambda *_: None)
    param = torch.nn.Parameter(torch.ones(2000))
    optimizer = CPLOptimizer([param], method=AGem(), compile="always")
    for mode, last in ((Mode.CAPTURE, 1.0), (Mode.UPDATE, float("nan"))):
        param.grad = torch.ones(2000)
        param.grad[-1] = last
        optimizer.start(mode)
        if mode is Mode.CAPTURE:
            optimizer.step()
    with pytest.raises(NonFiniteError, match="no parameter was moved"):
        optimizer.step()
    assert bool((param == 1).all())


@needs_compiler
def test_without_a_compiler_the_same_numbers_and_a_warning_each(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = train(3000, "always", method=PCGrad())
    monkeypatch.setenv("CXX", "no-such-compiler")
    for module in (fused, vectors):
        module.kernel.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert train(3000, "always", method=PCGrad()).equals(expected)
    finally:
        for module in (fused, vectors):
            module.kernel.cache_clear()
    assert sum("no-such-compiler" in record.message for record in caplog.records) == 2


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("name", ["agem", "pcgrad", "l2sp"])
def test_scratch_memory_does_not_grow_with_the_model(
    name: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        for module in (fused, vectors):
            monkeypatch.setattr(module, "kernel", lambda *_: None)
    numel, (make, captures) = 1_500_000, METHODS[name]
    param = torch.nn.Parameter(torch.randn(numel))
    optimizer = CPLOptimizer([param], method=make(), compile="always")
    optimizer.init_state()
    for mode in (*[Mode.CAPTURE] * captures, Mode.UPDATE):
        param.grad = torch.randn(numel)
        optimizer.start(mode)
        optimizer.step()
    kept = list(optimizer.mastered_tensors().values())
    state = [tensor for tensor in optimizer.state[param].values() if isinstance(tensor, torch.Tensor)]
    assert param.grad is not None
    with LiveBytes([param, param.grad, *state, *kept]) as scratch:
        optimizer.step()
    assert scratch.peak <= 20_000_000  # 0.2 bytes per parameter of 100 million


@pytest.mark.parametrize("rule", ALL_METHODS)
def test_those_said_not_to_be_compiled_are_not(rule: Rule) -> None:
    method = {"strength": 1.0} if rule in ("l2sp", "ewc") else {}
    config = Config.model_validate({"model": "m", "train": {"rule": rule}, "method": method})
    assert (build_method(config).fusion is None) == (rule in UNCOMPILED)
