"""Tests that tests/unit/test_fused_gpu.py runs in a process of its own: with Triton's interpreter for all of Triton."""

import os
from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter

from cpl_ray import fused
from cpl_ray.fused_form import Scalars, agrees
from cpl_ray.fused_gpu import GpuKernel
from cpl_ray.mastered import SignState
from cpl_ray.methods.base import Method
from tests.oracle.steps import OPTIMIZERS, train, without_kernel

assert os.environ.get("TRITON_INTERPRET") == "1"


def rounded_once(self: Any, x: Any, y: Any, z: Any) -> Any:
    # the interpreter's own rounds twice; products of float32 numbers are exact in float64, and a sum rounded to odd
    # there loses nothing that rounding it to float32 would ask for
    kind = z.dtype.scalar
    x, y, z = (one.data.astype(np.float64) for one in (x, y, z))
    product, added = np.broadcast_arrays(x * y, z)
    total = product + added
    back = total - product
    lost = (product - (total - back)) + (added - back)
    even = (total.view(np.int64) & 1) == 0
    odd = np.where(even & (lost != 0), np.nextafter(total, np.copysign(np.inf, lost)), total)
    return interpreter.TensorHandle(odd.astype(np.float32), kind)


def test_the_oracle_of_fused_rounds_once() -> None:
    one = np.float32(1 + 2**-12)
    handles = [interpreter.TensorHandle(np.array([value], np.float32), tl.float32) for value in (one, one, 2.0**-60)]
    assert rounded_once(None, *handles).data[0] == np.float32(1 + 2**-11 + 2**-23)
    handles[2].data[0] = -(2.0**-60)
    assert rounded_once(None, *handles).data[0] == np.float32(1 + 2**-11)


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> GpuKernel:
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_fma", rounded_once)
    return GpuKernel()


def test_the_eager_bits(interpreted: GpuKernel) -> None:
    assert agrees(interpreted)


@pytest.mark.parametrize("method", [None, Method()], ids=["masked", "plain"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_by_it_has_the_eager_bits(
    name: str, method: Method | None, interpreted: GpuKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "kernel", lambda device: interpreted)
    options: dict[str, Any] = {**OPTIMIZERS[name], "weight_decay": 0.1, "method": method, "steps": 2}
    for numel in (1, 7, 8, 1023, 1024, 1025, 3001):
        by_triton = train(numel, "always", offset=numel % 5, **options)
        assert by_triton.equals(without_kernel(numel, "always", **options)), numel


def test_moves_against_are_counted(interpreted: GpuKernel) -> None:
    param, gradient = torch.zeros(5), torch.tensor([1.0, -1, -1, 1, 0])
    mastered = torch.tensor([1.0, 2.0, -1.0, 0.0, -3.0])
    signs = SignState(param)
    interpreted.capture(mastered, signs)
    assert signs.planes[:, 0].tolist() == [0b00011, 0b10100, 0]
    counts = interpreted.update(param, gradient, [], signs, Scalars(lr=-1.0, step=1))  # the wrong way
    assert {name: int(count) for name, count in counts.items()} == {
        "conflict": 1,
        "zero": 2,
        "flips": 1,
        "moved": 3,
        "moved_against": 2,
    }
    counts = interpreted.update(param, gradient, [], None, Scalars(lr=1.0, step=1), mastered)
    assert (int(counts["moved"]), int(counts["moved_against"]), int(counts["conflict"])) == (4, 1, 0)
