"""The compiled step: the bits of the eager path at every length and alignment, honest counts, and no need of it."""

import copy
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cpl_ray import fused, native
from cpl_ray.compiled import PIECE
from cpl_ray.fused_form import COUNTS, Scalars, agrees
from cpl_ray.gradients import Watched
from cpl_ray.live_bytes import LiveBytes
from cpl_ray.mastered import SignState
from cpl_ray.methods.base import Method
from cpl_ray.methods.collaborative import Collaborative
from cpl_ray.native import CompilerError, load
from cpl_ray.optimizer import CPLOptimizer, Mode
from tests.oracle.steps import OPTIMIZERS, needs_compiler, train, values, without_kernel

# what the compiler makes for its own idea of a processor, and for other vector units that this one has
TARGETS = ["-O2", *(["-march=x86-64-v3"] if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") else [])]
LENGTHS = [1, 2, 7, 15, 16, 17, 1023, 1024, 1025, 4095, 4096, 4097, (1 << 18) - 1, (1 << 18) + 1]


@pytest.fixture
def fresh_kernel() -> Iterator[None]:
    fused.kernel.cache_clear()
    yield
    fused.kernel.cache_clear()


@needs_compiler
@pytest.mark.parametrize("method", [None, Method()], ids=["masked", "plain"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_bits_of_the_eager_path_at_every_length(name: str, decay: float, method: Method | None) -> None:
    assert fused.kernel("cpu") is not None
    options: dict[str, Any] = {**OPTIMIZERS[name], "weight_decay": decay, "method": method}
    for numel in LENGTHS:
        clipped: dict[str, Any] = {"whole_gradients": True, "max_grad_norm": 1e-3} if numel % 2 else {}
        compiled = train(numel, "always", offset=numel % 5, **options, **clipped)
        assert compiled.equals(without_kernel(numel, "always", **options, **clipped)), numel


@needs_compiler
@given(st.integers(1, 3000), st.integers(0, 20), st.sampled_from(sorted(OPTIMIZERS)), st.sampled_from([0.0, 0.01]))
@settings(max_examples=30)
def test_bits_of_the_eager_path_anywhere(numel: int, offset: int, name: str, decay: float) -> None:
    options = {**OPTIMIZERS[name], "weight_decay": decay, "steps": 2}
    assert train(numel, "always", offset=offset, **options).equals(without_kernel(numel, "always", **options))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_as_uncompiled_but_for_rounding(name: str) -> None:
    numel = (1 << 18) + 3
    start = train(numel, "never", steps=0, **OPTIMIZERS[name])
    compiled, eager = (train(numel, c, steps=1, weight_decay=0.1, **OPTIMIZERS[name]) for c in ("always", "never"))
    update = (eager.theta.double() - start.theta.double()).abs()
    difference = (compiled.theta.double() - eager.theta.double()).abs()
    ulp = torch.from_numpy(np.spacing(eager.theta.abs().numpy()))
    assert bool((difference <= 1e-6 * update + ulp).all())
    assert all(torch.equal(compiled.state[key], eager.state[key]) for key in eager.state)
    assert int((compiled.kept["0.planes"] != eager.kept["0.planes"]).sum()) <= numel // 10**5


def test_counts_are_those_of_a_recount() -> None:
    numel, lr = 100_003, 1e-3
    generator = torch.Generator().manual_seed(1)
    param = torch.nn.Parameter(values(numel, generator))
    optimizer = CPLOptimizer([param], name="sgd", lr=lr, compile="always")
    previous = None
    for _ in range(3):
        mastered, gradient = values(numel, generator), values(numel, generator)
        for mode, given_gradient in ((Mode.CAPTURE, mastered), (Mode.UPDATE, gradient)):
            before = param.detach().numpy().copy()
            param.grad = given_gradient.clone()
            optimizer.start(mode)
            optimizer.step()
        after, s = param.detach().numpy(), np.sign(mastered.numpy()) * np.sign(gradient.numpy())
        expected = {
            "total": numel,
            "conflict": (s < 0).sum(),
            "zero": (s == 0).sum(),
            "moved": (before != after).sum(),
            "moved_against": 0,
        }
        if previous is not None:
            expected |= {"flips": ((s < 0) != previous).sum(), "flip_of": numel}
        assert optimizer.stats.to_dict() == expected
        assert np.array_equal(before[s < 0], after[s < 0])
        previous = s < 0


@needs_compiler
def test_moves_against_are_counted_where_there_are_some() -> None:
    # a negative rate moves what the rule let through the wrong way: the count is not a constant
    param, whole = torch.zeros(5), slice(0, 5)
    signs = SignState(param)
    signs.capture(torch.tensor([1.0, 2.0, -1.0, 0.0, -3.0]))
    kernel = fused.kernel("cpu")
    assert kernel is not None
    counts = kernel.update(param, torch.tensor([1.0, -1, -1, 1, 0]), [], signs, Scalars(lr=-1.0, step=1))
    assert counts == {"conflict": 1, "zero": 2, "flips": 1, "moved": 3, "moved_against": 2}
    assert signs.sign(whole).tolist() == [1, 1, -1, 0, -1]
    assert signs.conflicting(whole).tolist() == [False, True, False, False, False]
    assert signs.planes[:, 0].tolist() == [0b00011, 0b10100, 0b00010]


@needs_compiler
def test_threads_change_nothing() -> None:
    threads, numel = torch.get_num_threads(), 2 * PIECE + 5
    torch.set_num_threads(2)
    try:
        two = train(numel, "always", steps=1)
    finally:
        torch.set_num_threads(threads)
    assert two.equals(train(numel, "always", steps=1))


@needs_compiler
def test_watching_and_resuming_change_no_bit() -> None:
    watched = Watched(Collaborative())
    watched.watching = True
    assert train(999, "always", method=watched).equals(train(999, "always"))
    assert float(watched.formed[0].abs().sum()) > 0
    params = [torch.nn.Parameter(torch.linspace(-1, 1, 999)) for _ in range(2)]
    first, second = (CPLOptimizer([p], lr=1e-2, weight_decay=0.1, compile="always") for p in params)

    def advance(optimizer: CPLOptimizer, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for mode in (Mode.CAPTURE, Mode.UPDATE):
            optimizer.param_groups[0]["params"][0].grad = values(999, generator)
            optimizer.start(mode)
            optimizer.step()

    advance(first, 0)
    second.init_state()
    second.load_state_dict(copy.deepcopy(first.state_dict()))  # else both have the same moments
    second.load_mastered_tensors({key: tensor.clone() for key, tensor in first.mastered_tensors().items()})
    params[1].data.copy_(params[0].data)
    advance(first, 1)
    advance(second, 1)
    assert torch.equal(*params)
    assert first.stats.to_dict() == second.stats.to_dict()


def test_small_steps_never_ask_for_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(native, "load", asked.append)
    fused.kernel.cache_clear()
    train(10_000, "auto")
    assert not asked
    method = Collaborative()
    assert fused.is_fused("auto", method.fusion, fused.FUSED_FROM)
    assert not fused.is_fused("auto", method.fusion, fused.FUSED_FROM - 1)
    assert fused.is_fused("auto", method.fusion, fused.FUSED_FROM // 100, 5000)  # many small steps pay as well
    assert not fused.is_fused("auto", method.fusion, fused.FUSED_FROM // 100, 4999)
    assert not fused.is_fused("never", method.fusion, 1 << 40, 1 << 40)
    assert not fused.is_fused("always", Collaborative(mask_on="gradient").fusion, 1 << 40)


@pytest.mark.usefixtures("fresh_kernel")
def test_without_a_compiler_the_same_numbers_and_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = train(500, "always")
    fused.kernel.cache_clear()
    caplog.clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with caplog.at_level(logging.WARNING):
        assert train(500, "always").equals(expected)
    assert [record.message.count("no-such-compiler") > 0 for record in caplog.records] == [True]
    with pytest.raises(CompilerError, match="no-such-compiler"):
        load(fused.SOURCE)


@needs_compiler
@pytest.mark.parametrize("target", TARGETS)
def test_code_for_other_processors_has_the_same_bits(target: str) -> None:
    assert agrees(fused.Kernel(load(fused.SOURCE, (target,))))


@needs_compiler
def test_code_that_rounds_otherwise_is_refused(tmp_path: Path) -> None:
    source, division = fused.SOURCE.read_text(encoding="utf-8"), "/ (root(second * c.unbias2) + c.eps)"
    assert source.count(division) == 1
    other = tmp_path / "rounds_twice.cpp"
    other.write_text(source.replace(division, "* (all(1.0f) / (root(second * c.unbias2) + c.eps))"), encoding="utf-8")
    assert not agrees(fused.Kernel(load(other)))


@needs_compiler
@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("masked", [True, False])
def test_counts_that_are_not_so_are_refused(name: str, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, real = fused.Kernel(load(fused.SOURCE)), fused.Kernel.update

    def update(*args: Any) -> dict[str, int]:
        counts = real(*args)
        return counts | {name: counts[name] + (masked is (args[4] is not None))}

    monkeypatch.setattr(fused.Kernel, "update", update)
    assert agrees(kernel) is (not masked and name in ("conflict", "zero", "flips"))  # those only a mask has


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("mode", [Mode.CAPTURE, Mode.UPDATE])
def test_scratch_memory_does_not_grow_with_the_model(
    mode: Mode, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(fused, "kernel", lambda *_: None)
    numel = 1_500_000
    param = torch.nn.Parameter(torch.randn(numel))
    optimizer = CPLOptimizer([param], whole_gradients=True, max_grad_norm=1.0, compile="always")
    for warm_up in (Mode.CAPTURE, Mode.UPDATE):
        param.grad = torch.randn(numel)
        optimizer.start(warm_up)
        optimizer.step()
    resident = sum(t.numel() * t.element_size() for t in optimizer.mastered_tensors().values())
    assert resident <= 3 / 8 * numel + 24
    optimizer.start(mode)
    assert param.grad is not None
    state = [t for t in optimizer.state[param].values() if isinstance(t, Tensor)]
    with LiveBytes([param, param.grad, *state, *optimizer.mastered_tensors().values()]) as scratch:
        optimizer.step()
    assert scratch.peak <= 10_000_000  # 0.1 bytes per parameter of 100 million
    assert isinstance(optimizer.kept_states[0], SignState)
