"""The step of the optimizer in one pass over memory (fused.cpp): read p, g, m, v, signs and classes, write the new.

It gives the bits of the eager path with the kernel's roundings (`adam_direction(exact=True)`), which the first use
verifies; where it does not, or where there is no compiler, the eager path does the same step. So it changes no number
whether the kernel runs, only whether the step is of this form (`is_fused`): in last bits of Adam's update.
"""

import ctypes
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cpl_ray import native
from cpl_ray.compiled import PIECE, address, fits, in_pieces, trusted
from cpl_ray.fused_form import COUNTS, Scalars, StepKernel, agrees
from cpl_ray.mastered import CHUNK, GROUP, MINUS, PLUS, GradientState, SignState
from cpl_ray.methods.base import Flat, Fusion, KeepsSign, UpdateStats

Compile = Literal["auto", "always", "never"]
FUSED_FROM = 20_000_000
"""Elements of a step from which `auto` compiles: about a second once per machine, earned back within four steps."""
FUSED_WORK = 1_000_000_000
"""Elements of all planned updates from which it does too: the eager ones take some 15 seconds."""
SOURCE = Path(__file__).with_suffix(".cpp")
DEVICES = ("cpu", "cuda")
"""Types of device that have a kernel: C++ here, Triton in fused_gpu.py (ROCm calls itself cuda too)."""
CHUNK_ON_GPU = 1 << 24
"""Elements of a shaped step that a GPU takes at once: bounds scratch memory."""
STEP = "the optimizer's step"
"""What the kernels compute, for a warning."""


class _Numbers(ctypes.Structure):
    """The scalars of a step, rounded to float32 as torch rounds them."""

    _fields_ = (
        *((name, ctypes.c_float) for name in ("scale", "decay", "beta1", "feed1", "beta2", "feed2")),
        *((name, ctypes.c_float) for name in ("unbias1", "unbias2", "eps", "minus_lr")),
        ("decoupled", ctypes.c_int32),
    )


class _Counts(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in COUNTS)


class Kernel:
    """The compiled functions over flat, contiguous float32 tensors on the CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._update, self._capture = library.cpl_update, library.cpl_capture
        self._update.argtypes = [ctypes.c_int64, *[ctypes.c_void_p] * 11]
        self._capture.argtypes = [ctypes.c_int64, *[ctypes.c_void_p] * 3]
        self._update.restype = self._capture.restype = None

    def update(
        self,
        param: Tensor,
        gradient: Tensor,
        moments: list[Tensor],
        signs: SignState | None,
        scalars: Scalars,
        signed: Tensor | None = None,
    ) -> dict[str, int]:
        """Do one step in place and return its counts; as `StepKernel.update`."""
        numbers = _Numbers(
            scalars.scale, scalars.weight_decay, *scalars.factors, scalars.eps, -scalars.lr, scalars.decoupled
        )
        tensors = [param, gradient, *moments, *[None] * (2 - len(moments)), signed]
        planes = [None] * 4 if signs is None else [*signs.planes, signs.flips(scalars.mark_flips)]

        def piece(start: int, stop: int) -> list[int]:
            counts = _Counts()
            places = [address(tensor, start) for tensor in tensors] + [address(plane, start // 8) for plane in planes]
            self._update(stop - start, *places, ctypes.byref(numbers), ctypes.byref(counts))
            return [getattr(counts, name) for name in COUNTS]

        found = in_pieces(param.numel(), piece, unit=GROUP)
        return dict(zip(COUNTS, map(sum, zip(*found, strict=True)), strict=True))

    def capture(self, gradient: Tensor, signs: SignState) -> None:
        """Store sign(g_M), `[num_params]`; the classes stay, marks of flips go."""
        planes = [signs.planes[PLUS], signs.planes[MINUS]]
        signs.flips(False)

        def piece(start: int, stop: int) -> None:
            self._capture(stop - start, address(gradient, start), *(address(plane, start // 8) for plane in planes))

        in_pieces(gradient.numel(), piece, unit=GROUP)


def chunk_size(device: torch.device) -> int:
    """Return how many elements of a step `update_shaped` takes at once: few stay in cache, many give threads work."""
    if device.type != "cpu":
        return CHUNK_ON_GPU
    threads = torch.get_num_threads()
    return CHUNK if threads == 1 else PIECE * threads


def is_fused(compile: Compile, fusion: Fusion | None, numel: int, updates: int = 0) -> bool:
    """Tell whether a step over `numel` elements has the form of the kernel, whatever then computes it.

    Args:
        compile: the setting.
        fusion: what the method has compiled; None: nothing.
        numel: elements of the step.
        updates: planned for the whole training; 0: unknown.
    """
    pays = numel >= FUSED_FROM or numel * updates >= FUSED_WORK
    return fusion is not None and (compile == "always" or (compile == "auto" and pays))


@cache
def kernel(device: str) -> StepKernel | None:
    """Return this process's kernel for a type of device; None, and one warning, where there is none or it disagrees."""
    if device == "cpu":
        return trusted(lambda: Kernel(native.load(SOURCE)), agrees, STEP)
    return trusted(_gpu_kernel, _agrees_on_gpu, STEP)


def _gpu_kernel() -> StepKernel:
    try:
        from cpl_ray.fused_gpu import GpuKernel
    except ImportError as error:
        raise native.CompilerError(f"there is no Triton: {error}") from error
    return GpuKernel()


def _agrees_on_gpu(found: StepKernel) -> bool:
    try:
        return agrees(found, "cuda")
    except Exception as error:  # whatever Triton, its compilers or this GPU raise at the first launch
        raise native.CompilerError(f"Triton: {type(error).__name__}: {error}") from error


def _kernel_of(tensors: list[Tensor]) -> StepKernel | None:
    device = tensors[0].device.type
    return kernel(device) if device in DEVICES and fits(tensors, device) else None


def update(flat: Flat, fusion: Fusion, scalars: Scalars, stats: UpdateStats) -> bool:
    """Do one step of a flat tensor by the kernel; return False, having done nothing, where it does not apply."""
    param, kept, state = flat.param.view(-1), flat.kept, flat.state
    moments = [state[key].view(-1) for key in ("exp_avg", "exp_avg_sq") if key in state]
    masked = fusion is Fusion.MASKED
    # the eager path alone makes sums of all of g_M, and counts a plain step's moves against a captured one
    known = _has_only_signs(kept) if masked else not isinstance(kept, KeepsSign)
    compiled = _kernel_of([param, flat.gradient, *moments]) if known else None
    if compiled is None:
        return False
    counts = compiled.update(param, flat.gradient, moments, kept if masked else None, scalars)
    names = ["conflict", "zero", "moved", "moved_against"] if masked else ["moved"]
    if masked and kept.classified:
        names.append("flips")
        stats.add(flip_of=param.numel())
    stats.add(**{name: counts[name] for name in names})
    return True


def update_shaped(flat: Flat, shaped: Iterable[tuple[slice, Tensor]], scalars: Scalars, stats: UpdateStats) -> bool:
    """Do one step of a flat tensor by the kernel, chunk by chunk; return False, having done nothing, as `update` does.

    Args:
        flat: the tensor.
        shaped: its slices in order and what the moments are fed there but for decay, clipped already, `[n]`; each is
            asked for when those before it have been stepped.
        scalars: the numbers of this step.
        stats: get the counts.
    """
    param = flat.param.view(-1)
    moments = [flat.state[key].view(-1) for key in ("exp_avg", "exp_avg_sq") if key in flat.state]
    compiled = _kernel_of([param, flat.gradient, *moments])
    if compiled is None:
        return False
    scalars, kept = replace(scalars, scale=1.0), flat.kept
    known = isinstance(kept, KeepsSign)
    moved: Tensor | int = 0
    moved_against: Tensor | int = 0
    for part, gradient in shaped:
        whole = kept.gradient if isinstance(kept, GradientState) else None
        signed = whole[part] if whole is not None else kept.sign(part).float() if known else None
        own = [moment[part] for moment in moments]
        counts = compiled.update(param[part], gradient.contiguous(), own, None, scalars, signed)
        moved, moved_against = moved + counts["moved"], moved_against + counts["moved_against"]
    stats.add(moved=moved)
    if known:
        stats.add(moved_against=moved_against)
    return True


def capture(gradient: Tensor, state: object) -> bool:
    """Store the sign of g_M by the kernel; return False, having done nothing, where it does not apply."""
    # estimates make more of a gradient than its sign
    compiled = _kernel_of([gradient]) if type(state) is SignState else None
    if compiled is None:
        return False
    assert isinstance(state, SignState)
    compiled.capture(gradient, state)
    state.captured = True
    return True


def _has_only_signs(kept: object) -> bool:
    return isinstance(kept, SignState) and kept.values(slice(0)) is None
