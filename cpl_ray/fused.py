"""The step of the optimizer in one pass over memory (fused.cpp): read p, g, m, v, signs and classes, write the new.

It gives the bits of the eager path with the kernel's roundings (`adam_direction(exact=True)`), which the first use
verifies; where it does not, or where there is no compiler, the eager path does the same step. So it changes no number
whether the kernel runs, only whether the step is of this form (`is_fused`): in last bits of Adam's update.
"""

import ctypes
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cpl_ray.compiled import PIECE, address, fits, in_pieces, trusted
from cpl_ray.mastered import CHUNK, GROUP, MINUS, PLUS, GradientState, SignState
from cpl_ray.methods.base import Flat, Fusion, KeepsSign, UpdateStats
from cpl_ray.rule import adam_direction, adam_moments_, collaborative, momentum_update_

Compile = Literal["auto", "always", "never"]
FUSED_FROM = 20_000_000
"""Elements of a step from which `auto` compiles: about a second once per machine, earned back within four steps."""
FUSED_WORK = 1_000_000_000
"""Elements of all planned updates from which it does too: the eager ones take some 15 seconds."""
COUNTS = ("conflict", "zero", "flips", "moved", "moved_against")
SOURCE = Path(__file__).with_suffix(".cpp")


class _Numbers(ctypes.Structure):
    """The scalars of a step, rounded to float32 as torch rounds them."""

    _fields_ = (
        *((name, ctypes.c_float) for name in ("scale", "decay", "beta1", "feed1", "beta2", "feed2")),
        *((name, ctypes.c_float) for name in ("unbias1", "unbias2", "eps", "minus_lr")),
        ("decoupled", ctypes.c_int32),
    )


class _Counts(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in COUNTS)


@dataclass(frozen=True)
class Scalars:
    """The numbers of one update of one flat tensor."""

    lr: float
    step: int
    """t, this update included, >= 1."""
    scale: float = 1.0
    """Factor that clips the gradient."""
    weight_decay: float = 0.0
    decoupled: bool = False
    """Decay is added to the update, not to the gradient."""
    betas: tuple[float, float] = (0.9, 0.999)
    """For Adam; with momentum the first is the momentum."""
    eps: float = 1e-8
    mark_flips: bool = False
    """Mark the elements whose class changes."""


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
        """Do one step in place and return its counts.

        Args:
            param: theta, `[num_params]`.
            gradient: not clipped yet, `[num_params]`.
            moments: none (SGD), the momentum, or Adam's two.
            signs: masks the update and gets the new classes; None: no mask, and only `moved` is counted.
            scalars: the numbers of this step.
            signed: has the sign of g_M, float32 `[num_params]`: without a mask, for `moved_against`.
        """
        (beta1, beta2), step = scalars.betas, scalars.step
        numbers = _Numbers(
            *(scalars.scale, scalars.weight_decay, beta1, 1 - beta1, beta2, 1 - beta2),
            *(1 / (1 - beta1**step), 1 / (1 - beta2**step), scalars.eps, -scalars.lr),
            scalars.decoupled,
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


def chunk_size() -> int:
    """Return how many elements of a step `update_shaped` takes at once: few stay in cache, many give threads work."""
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
def kernel() -> Kernel | None:
    """Return the compiled kernel of this process; None, and one warning, where it cannot be had or disagrees."""
    return trusted(SOURCE, Kernel, agrees, "the optimizer's step")


def update(flat: Flat, fusion: Fusion, scalars: Scalars, stats: UpdateStats) -> bool:
    """Do one step of a flat tensor by the kernel; return False, having done nothing, where it does not apply."""
    param, kept, state = flat.param.view(-1), flat.kept, flat.state
    moments = [state[key].view(-1) for key in ("exp_avg", "exp_avg_sq") if key in state]
    masked = fusion is Fusion.MASKED
    # the eager path alone makes sums of all of g_M, and counts a plain step's moves against a captured one
    known = _has_only_signs(kept) if masked else not isinstance(kept, KeepsSign)
    if not known or not fits([param, flat.gradient, *moments]):
        return False
    compiled = kernel()
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
    compiled = kernel() if fits([param, flat.gradient, *moments]) else None
    if compiled is None:
        return False
    scalars, kept = replace(scalars, scale=1.0), flat.kept
    known = isinstance(kept, KeepsSign)
    moved = moved_against = 0
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
    if type(state) is not SignState or not fits([gradient]):  # estimates make more of a gradient than its sign
        return False
    compiled = kernel()
    if compiled is None:
        return False
    compiled.capture(gradient, state)
    state.captured = True
    return True


def _has_only_signs(kept: object) -> bool:
    return isinstance(kept, SignState) and kept.values(slice(0)) is None


def agrees(found: Kernel) -> bool:
    """Tell whether the kernel has the very bits of the eager formulas, on a sample of all its forms.

    Torch rounds a * b + c once or twice, as the processor and its own build have it; so this is looked at.
    """
    generator = torch.Generator().manual_seed(0)

    def sample() -> Tensor:
        values = torch.randn(4099, generator=generator) * torch.exp(3 * torch.randn(4099, generator=generator) - 6)
        return values * (torch.rand(4099, generator=generator) > 0.1)

    return all(
        _same(found, sample, count, Scalars(1e-3, step, 0.7, decay, decoupled, mark_flips=step == 2))
        for count in (0, 1, 2)
        for decay, decoupled in ((0.0, False), (0.1, False), (0.1, True))
        for step in (2, 100_000)
    )


def _same(found: Kernel, sample: Callable[[], Tensor], count: int, s: Scalars) -> bool:
    """Compare one masked step with `count` moments."""
    theta, gradient, moments = sample(), sample(), [sample(), sample().abs()][:count]
    own, own_moments, kept, own_kept = theta.clone(), [moment.clone() for moment in moments], *_two_alike(theta, sample)
    counts = found.update(own, gradient, own_moments, own_kept, s)
    fed = gradient * s.scale
    if s.weight_decay and not s.decoupled:
        fed = fed.add(theta, alpha=s.weight_decay)
    if count == 2:
        adam_moments_(fed, moments[0], moments[1], s.betas)
        direction = adam_direction(moments[0], moments[1], s.step, s.betas, s.eps, exact=True)
    else:
        direction = momentum_update_(fed, moments[0], s.betas[0]).clone() if count else fed
    if s.weight_decay and s.decoupled:
        direction = direction.add_(theta, alpha=s.weight_decay)
    mask = collaborative(direction, kept.sign(slice(None)))
    flips = int(kept.classify(slice(None), ~mask, mark_flips=s.mark_flips))
    theta.sub_(direction * mask, alpha=s.lr)
    pairs = [(own, theta), (own_kept.planes, kept.planes), *zip(own_moments, moments, strict=True)]
    pairs.append((own_kept.count(slice(None)), kept.count(slice(None))))
    found.capture(gradient, own_kept)
    kept.capture(gradient)
    pairs.append((own_kept.planes, kept.planes))
    counted = (counts["conflict"], counts["flips"]) == (int((~mask).sum()), flips)
    return counted and all(torch.equal(a, b) for a, b in pairs)


def _two_alike(theta: Tensor, sample: Callable[[], Tensor]) -> tuple[SignState, SignState]:
    """Return two states with the same signs and classes."""
    first, second = SignState(theta), SignState(theta)
    first.capture(sample())
    first.classify(slice(None), sample() > 0)
    second.planes.copy_(first.planes)
    return first, second
