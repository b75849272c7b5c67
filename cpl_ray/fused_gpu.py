"""The step of the optimizer in one pass over a GPU's memory, in Triton: fused.cpp's arithmetic, rounding for rounding.

A program has `8 * SIZE` elements, as `[SIZE, 8]`: row i is byte i of the planes, column j its bit j. Nothing is
contracted but where `fma` stands. No GPU has run this yet: it is run by Triton's interpreter and compiled for several
architectures (tests/unit/test_fused_gpu.py); on a GPU the first use holds it against the eager path, as on CPUs.
"""

from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from cpl_ray.fused_form import COUNTS, Scalars
from cpl_ray.mastered import CONFLICT, MINUS, PLUS, SignState

SIZE = 128
"""Bytes of each plane, per program."""
PLAIN, SIGNED, MASKED = (tl.constexpr(form) for form in range(3))
NO_DECAY, COUPLED, DECOUPLED = (tl.constexpr(form) for form in range(3))
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


@triton.jit
def _places(size: tl.constexpr) -> tl.tensor:
    return tl.program_id(0).to(tl.int64) * size + tl.arange(0, size)


@triton.jit
def _bits(plane: tl.tensor, byte: tl.tensor, inside: tl.tensor) -> tl.tensor:
    packed = tl.load(plane + byte, inside, 0).to(tl.int32)
    return ((packed[:, None] >> tl.arange(0, 8)[None, :]) & 1) != 0


@triton.jit
def _store_bits(plane: tl.tensor, byte: tl.tensor, inside: tl.tensor, bits: tl.tensor) -> None:
    packed = tl.sum(bits.to(tl.int32) << tl.arange(0, 8)[None, :], 1)
    tl.store(plane + byte, packed.to(tl.uint8), inside)


@triton.jit
def _add(counts: tl.tensor, index: tl.constexpr, bits: tl.tensor) -> None:
    tl.atomic_add(counts + index, tl.sum(tl.sum(bits.to(tl.int32), 1), 0).to(tl.int64))


@triton.jit(do_not_specialize=["numel"])
def step(
    param: tl.tensor,
    gradient: tl.tensor,
    first: tl.tensor,
    second: tl.tensor,
    signed: tl.tensor,
    plus_plane: tl.tensor,
    minus_plane: tl.tensor,
    conflict_plane: tl.tensor,
    flips_plane: tl.tensor,
    counts: tl.tensor,
    numel: tl.tensor,
    scale: tl.tensor,
    decay: tl.tensor,
    beta1: tl.tensor,
    feed1: tl.tensor,
    beta2: tl.tensor,
    feed2: tl.tensor,
    unbias1: tl.tensor,
    unbias2: tl.tensor,
    eps: tl.tensor,
    minus_lr: tl.tensor,
    num_moments: tl.constexpr,
    decay_form: tl.constexpr,
    scaled: tl.constexpr,
    form: tl.constexpr,
    marked: tl.constexpr,
    size: tl.constexpr,
) -> None:
    """Do what `fused.cpp` does to `numel` elements; tensors that a form does not have are never looked at."""
    byte = _places(size)
    at = byte[:, None] * 8 + tl.arange(0, 8)[None, :]
    inside, byte_inside = at < numel, byte * 8 < numel
    theta = tl.load(param + at, inside, 0.0)
    fed = tl.load(gradient + at, inside, 0.0)
    if scaled:
        fed = fed * scale
    if decay_form == COUPLED:
        fed = tl.fma(theta, decay, fed)
    update = fed
    if num_moments == 1:
        update = tl.load(first + at, inside, 0.0) * beta1 + fed
        tl.store(first + at, update, inside)
    if num_moments == 2:
        m = tl.fma(fed, feed1, tl.load(first + at, inside, 0.0) * beta1)
        v = tl.fma(fed * feed2, fed, tl.load(second + at, inside, 1.0) * beta2)  # 1, not 0: nothing divides 0 by 0
        tl.store(first + at, m, inside)
        tl.store(second + at, v, inside)
        update = tl.div_rn(m * unbias1, tl.sqrt_rn(v * unbias2) + eps)
    if decay_form == DECOUPLED:
        update = tl.fma(theta, decay, update)
    applied = update
    if form == MASKED:
        plus, minus = _bits(plus_plane, byte, byte_inside), _bits(minus_plane, byte, byte_inside)
        conflict = (((update < 0) & plus) | ((update > 0) & minus)) & inside
        flips = conflict ^ _bits(conflict_plane, byte, byte_inside)
        _store_bits(conflict_plane, byte, byte_inside, conflict)
        if marked:
            _store_bits(flips_plane, byte, byte_inside, flips)
        _add(counts, 0, conflict)
        _add(counts, 1, inside & ((update == 0) | ((plus | minus) == 0)))
        _add(counts, 2, flips)
        applied = tl.where(conflict, update * 0.0, update)
    after = tl.fma(applied, minus_lr, theta)
    down = theta - after
    tl.store(param + at, after, inside)
    _add(counts, 3, inside & (down != 0))
    if form == SIGNED:
        sign = tl.load(signed + at, inside, 0.0)
        plus, minus = sign > 0, sign < 0
    if form != PLAIN:
        _add(counts, 4, inside & (((down < 0) & plus) | ((down > 0) & minus)))


@triton.jit(do_not_specialize=["numel"])
def signs_of(
    gradient: tl.tensor, plus_plane: tl.tensor, minus_plane: tl.tensor, numel: tl.tensor, size: tl.constexpr
) -> None:
    """Store sign(g) in two planes."""
    byte = _places(size)
    at = byte[:, None] * 8 + tl.arange(0, 8)[None, :]
    values = tl.load(gradient + at, at < numel, 0.0)
    _store_bits(plus_plane, byte, byte * 8 < numel, values > 0)
    _store_bits(minus_plane, byte, byte * 8 < numel, values < 0)


class GpuKernel:
    """The Triton functions as a `fused_form.StepKernel`; counts stay on the GPU."""

    def update(
        self,
        param: Tensor,
        gradient: Tensor,
        moments: list[Tensor],
        signs: SignState | None,
        scalars: Scalars,
        signed: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Do one step in place; as `StepKernel.update`."""
        counts = torch.zeros(len(COUNTS), dtype=torch.int64, device=param.device)
        first, second = [*moments, param, param][:2]
        planes = [counts.view(torch.uint8)] * 3 if signs is None else list(signs.planes)
        flips = None if signs is None else signs.flips(scalars.mark_flips)
        decay = NO_DECAY if scalars.weight_decay == 0 else DECOUPLED if scalars.decoupled else COUPLED
        form = MASKED if signs is not None else SIGNED if signed is not None else PLAIN
        with _on(param):
            step[_grid(param)](
                param,
                gradient,
                first,
                second,
                param if signed is None else signed,
                *(planes[index] for index in (PLUS, MINUS, CONFLICT)),
                planes[CONFLICT] if flips is None else flips,
                counts,
                param.numel(),
                scalars.scale,
                scalars.weight_decay,
                *scalars.factors,
                scalars.eps,
                -scalars.lr,
                num_moments=len(moments),
                decay_form=decay.value,
                scaled=scalars.scale != 1.0,
                form=form.value,
                marked=flips is not None,
                size=SIZE,
                **OPTIONS,
            )
        return dict(zip(COUNTS, counts, strict=True))

    def capture(self, gradient: Tensor, signs: SignState) -> None:
        """Store sign(g_M), `[num_params]`; the classes stay, marks of flips go."""
        signs.flips(False)
        planes = [signs.planes[PLUS], signs.planes[MINUS]]
        with _on(gradient):
            signs_of[_grid(gradient)](gradient, *planes, gradient.numel(), size=SIZE, **OPTIONS)


def _grid(tensor: Tensor) -> tuple[int]:
    return (triton.cdiv(tensor.numel(), 8 * SIZE),)


def _on(tensor: Tensor) -> Any:
    """Make a GPU the current one."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
