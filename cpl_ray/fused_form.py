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
    counted = (int(counts["conflict"]), int(counts["flips"])) == (int((~mask).sum()), flips)
    return counted and all(torch.equal(a, b) for a, b in pairs)


def _two_alike(theta: Tensor, sample: Callable[[], Tensor]) -> tuple[SignState, SignState]:
    """Return two states with the same signs and classes."""
    first, second = SignState(theta), SignState(theta)
    first.capture(sample())
    first.classify(slice(None), sample() > 0)
    second.planes.copy_(first.planes)
    return first, second
