"""What a method is: the few places of an optimizer's step where the rule and its rivals differ.

A step goes through the elements of a rank's flat tensors chunk by chunk:

    gradient (averaged, clipped) -> [method.gradient] -> moments -> update u -> [method.update] -> theta - lr * u

`begin` comes before the first chunk, `between` after all moments of the step are known (methods with `two_passes`
only). What needs sums over all parameters asks `StepView.sum`, which adds up the partitions of all ranks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from cpl_ray.layout import Layout


class Kept(Protocol):
    """What a method keeps for one flat tensor between steps; part of the checkpoint."""

    captured: bool

    def capture(self, gradient: Tensor) -> None: ...
    def tensors(self) -> dict[str, Tensor]: ...
    def restored(self) -> None: ...


class Fusion(Enum):
    """What a method does to a step that one pass over memory can do (fused.py)."""

    PLAIN = "plain"
    """Nothing."""
    MASKED = "masked"
    """The mask of the rule on the update, by the planes of a `SignState`."""
    SHAPED = "shaped"
    """What `gradient` makes of the gradient, nothing to the update."""


@runtime_checkable
class KeepsSign(Protocol):
    """Keeps enough of g_M for moves against it to be counted."""

    def sign(self, part: slice) -> Tensor: ...


class UpdateStats:
    """Counts over this rank's elements for one update; padding is included and lands in `zero`."""

    def __init__(self) -> None:
        self.total = 0
        self.counts: dict[str, Tensor | float] = {}

    def add(self, **values: Tensor | float) -> None:
        """Add scalar tensors or numbers by name, e.g. `conflict`, `zero`, `flips`, `moved`, `moved_against`."""
        for name, value in values.items():
            self.counts[name] = self.counts.get(name, 0.0) + (value.double() if isinstance(value, Tensor) else value)

    def to_dict(self) -> dict[str, float]:
        """Return all counts as Python numbers (one device synchronisation)."""
        return {"total": float(self.total), **{name: float(value) for name, value in self.counts.items()}}


@dataclass(frozen=True)
class Flat:
    """One of the optimizer's tensors in a step: a parameter, or ZeRO's flat partition of many."""

    index: int
    """In the order of first sight; the number of its pieces in `Layout.flats`."""
    param: Tensor
    """theta, changed in place by the optimizer only."""
    gradient: Tensor
    """Reduced and averaged over ranks, flat `[num_params]`; times `StepView.scale` it is clipped."""
    group: dict[str, Any]
    state: dict[str, Any]
    """The optimizer's: `step`, `exp_avg`, `exp_avg_sq` as far as it has them."""
    kept: Any
    """What `Method.new_kept` made for this tensor; None where it keeps nothing."""


@dataclass(frozen=True)
class StepView:
    """A whole step, for `begin` and `between`."""

    index: int
    """Updates done before this one, over the whole run."""
    flats: list[Flat]
    scale: float
    """Factor that clips the gradients (1.0 where they are clipped already)."""
    sum: Callable[[Tensor], Tensor]
    """Adds a float64 tensor up over the ranks that hold the other partitions; itself where each rank holds all."""
    stats: UpdateStats
    fused: bool = False
    """Whether the step has the form that is compiled, whatever then computes it."""

    @property
    def device(self) -> torch.device:
        """Where the flat tensors lie."""
        return self.flats[0].param.device


@dataclass(frozen=True)
class Chunk:
    """A run of elements of one flat tensor."""

    flat: Flat
    part: slice
    theta: Tensor
    """Before the update, `[num_params]`; not to be changed."""
    step: StepView
    mark_flips: bool = False

    @property
    def stats(self) -> UpdateStats:
        """Where counts of this update go."""
        return self.step.stats

    @property
    def lr(self) -> float:
        """Rate of this update."""
        return float(self.flat.group["lr"])


class Method:
    """Plain fine-tuning: every gradient is fed, every update applied. The base of all methods."""

    two_passes: ClassVar[bool] = False
    """Whether updates are formed only after all moments of the step are known."""
    whole: ClassVar[bool] = False
    """Whether a step must show all tensors at once: one parameter group, one ZeRO sub-group."""
    needs_layout: ClassVar[bool] = False
    """Whether `bind` must be called before the first update."""
    keeps_start: ClassVar[bool] = False
    """Whether `new_kept` must see the parameters before the first update."""
    clips_mastered: ClassVar[bool] = False
    """Whether g_M is clipped as the injection gradient is, since the two are added."""
    captures_per_refresh: int = 1
    """Parts that a mastered batch is cut into, each captured on its own."""

    @property
    def fusion(self) -> Fusion | None:
        """What the method is in a compiled step; None: `update` must be asked."""
        if type(self) is Method:
            return Fusion.PLAIN
        return Fusion.SHAPED if type(self).update is Method.update and not self.two_passes else None

    @property
    def sees_updates(self) -> bool:
        """Whether the next step must call `update` although `fusion` says what it would do."""
        return False

    def bind(self, layout: Layout) -> None:
        """Learn which parameters lie where; called before the first update if `needs_layout`."""

    def new_kept(self, like: Tensor) -> Kept | None:
        """Return what to keep for a flat tensor; None: nothing."""
        return None

    def begin(self, step: StepView) -> None:
        """Look at all gradients of a step before anything moves."""

    def gradient(self, gradient: Tensor, chunk: Chunk) -> Tensor:
        """Return what the moments are fed, for a clipped gradient `[num_params]` of a chunk, not changed in place.

        Called again in the second pass of methods with `two_passes`: must return the same.
        """
        return gradient

    def between(self, step: StepView) -> None:
        """Look at all moments of a step before updates are formed; only with `two_passes`."""

    def update(self, update: Tensor, chunk: Chunk) -> Tensor:
        """Return what is subtracted, times the rate, for the update u `[num_params]` the optimizer would apply."""
        return update

    def end(self, step: StepView) -> None:
        """Note that a step is done."""


PLAIN = Method()
