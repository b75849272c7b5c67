"""What a step in one pass over memory is, whatever computes it: its numbers, its counts, and the bits it must have."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cpl_ray.mastered import SignState
from cpl_ray.rule import adam_direction, adam_moments_, collaborative, momentum_update_

COUNTS = ("conflict", "zero", "flips", "moved", "moved_against")


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

    @property
    def factors(self) -> tuple[float, ...]:
        """What the moments take: beta1, 1 - beta1, beta2, 1 - beta2, and one through each of Adam's corrections."""
        (beta1, beta2), step = self.betas, self.step
        return beta1, 1 - beta1, beta2, 1 - beta2, 1 / (1 - beta1**step), 1 / (1 - beta2**step)


class StepKernel(Protocol):
    """Compiled functions over flat, contiguous float32 tensors of one device."""

    def update(
        self,
        param: Tensor,
        gradient: Tensor,
        moments: list[Tensor],
        signs: SignState | None,
        scalars: Scalars,
        signed: Tensor | None = None,
    ) -> Mapping[str, int | Tensor]:
        """Do one step in place and return its counts.

        Args:
            param: theta, `[num_params]`.
            gradient: not clipped yet, `[num_params]`.
            moments: none (SGD), the momentum, or Adam's two.
            signs: masks the update and gets the new classes; None: no mask, and only `moved` is counted.
            scalars: the numbers of this step.
            signed: has the sign of g_M, float32 `[num_params]`: without a mask, for `moved_against`.
        """

    def capture(self, gradient: Tensor, signs: SignState) -> None:
        """Store sign(g_M), `[num_params]`; the classes stay, marks of flips go."""


def agrees(found: StepKernel, device: str | torch.device = "cpu") -> bool:
    """Tell whether a kernel has the very bits of the eager formulas, on a sample of all its forms.

    Torch rounds a * b + c once or twice, as the processor and its own build have it; so this is looked at.
    """
    generator = torch.Generator().manual_seed(0)

    def sample() -> Tensor:
        values = torch.randn(4099, generator=generator) * torch.exp(3 * torch.randn(4099, generator=generator) - 6)
        return (values * (torch.rand(4099, generator=generator) > 0.1)).to(device)

    return all(
        _same(found, sample, count, Scalars(1e-3, step, 0.7, decay, decoupled, mark_flips=step == 2))
        for count in (0, 1, 2)
        for decay, decoupled in ((0.0, False), (0.1, False), (0.1, True))
        for step in (2, 100_000)
    )


def _same(found: StepKernel, sample: Callable[[], Tensor], count: int, s: Scalars) -> bool:
    """Compare a masked step with `count` moments, one that only counts moves against g_M, and a plain one."""
    theta, gradient, moments = sample(), sample(), [sample(), sample().abs()][:count]
    kept, own_kept = _two_alike(theta, sample)
    signed = sample()
    for signs, own_signs, of in ((kept, own_kept, None), (None, None, signed), (None, None, None)):
        own, own_moments = theta.clone(), [moment.clone() for moment in moments]
        counts = found.update(own, gradient, own_moments, own_signs, s, of)
        expected = _eager(theta, gradient, moments, signs, s, of)
        pairs = [(own, theta), *zip(own_moments, moments, strict=True)]
        if {name: int(counts[name]) for name in expected} != expected or not all(torch.equal(a, b) for a, b in pairs):
            return False
    pairs = [(own_kept.planes, kept.planes), (own_kept.count(slice(None)), kept.count(slice(None)))]
    found.capture(gradient, own_kept)
    kept.capture(gradient)
    return all(torch.equal(a, b) for a, b in [*pairs, (own_kept.planes, kept.planes)])


def _eager(
    theta: Tensor, gradient: Tensor, moments: list[Tensor], signs: SignState | None, s: Scalars, signed: Tensor | None
) -> dict[str, int]:
    """Do the step by the formulas of rule.py; return the counts that it has."""
    fed = gradient * s.scale
    if s.weight_decay and not s.decoupled:
        fed = fed.add(theta, alpha=s.weight_decay)
    if len(moments) == 2:
        adam_moments_(fed, moments[0], moments[1], s.betas)
        direction = adam_direction(moments[0], moments[1], s.step, s.betas, s.eps, exact=True)
    else:
        direction = momentum_update_(fed, moments[0], s.betas[0]).clone() if moments else fed
    if s.weight_decay and s.decoupled:
        direction = direction.add_(theta, alpha=s.weight_decay)
    counts, before = {}, theta.clone()
    mastered = signed if signs is None else signs.sign(slice(None))
    if signs is not None:
        mask = collaborative(direction, signs.sign(slice(None)))
        zero = torch.sign(direction) * signs.sign(slice(None)) == 0
        flips = signs.classify(slice(None), ~mask, mark_flips=s.mark_flips)
        counts = {"conflict": int((~mask).sum()), "zero": int(zero.sum()), "flips": int(flips)}
        direction = direction * mask
    theta.sub_(direction, alpha=s.lr)
    down = before.sub_(theta)
    if mastered is not None:
        counts["moved_against"] = int((torch.sign(down) * torch.sign(mastered) < 0).sum())
    return counts | {"moved": int(down.count_nonzero())}


def _two_alike(theta: Tensor, sample: Callable[[], Tensor]) -> tuple[SignState, SignState]:
    """Return two states with the same signs and classes."""
    first, second = SignState(theta), SignState(theta)
    first.capture(sample())
    first.classify(slice(None), sample() > 0)
    second.planes.copy_(first.planes)
    return first, second
