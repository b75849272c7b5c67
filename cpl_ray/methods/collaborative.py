"""The rule of Collaborative Parameter Learning as a method (rule.py has its formulas)."""

from collections.abc import Callable

from torch import Tensor

from cpl_ray.mastered import SignState
from cpl_ray.methods.base import Chunk, Fusion, Method, StepView
from cpl_ray.rule import collaborative, contribution


class Collaborative(Method):
    """theta_j <- theta_j - lr * u_j * 1[u_j * g_M,j >= 0].

    Args:
        new_state: makes what is kept of g_M for a flat tensor (mastered.py, estimators.py).
        mask_on: `update`, or `gradient` for the ablation that masks before the moments.
    """

    def __init__(self, new_state: Callable[[Tensor], SignState] = SignState, mask_on: str = "update") -> None:
        self._new_state, self._mask_on = new_state, mask_on

    @property
    def fusion(self) -> Fusion | None:
        """The mask on updates; the ablation's is on gradients."""
        return Fusion.MASKED if type(self) is Collaborative and self._mask_on == "update" else None

    def new_kept(self, like: Tensor) -> SignState:
        """Return room for sign(g_M) of a flat tensor, and for the classes."""
        return self._new_state(like)

    def gradient(self, gradient: Tensor, chunk: Chunk) -> Tensor:
        """Return the gradient, masked only in the ablation."""
        return self._mask(gradient, chunk) if self._mask_on == "gradient" else gradient

    def update(self, update: Tensor, chunk: Chunk) -> Tensor:
        """Return the update with its conflicting entries set to zero."""
        return self._mask(update, chunk) if self._mask_on == "update" else update

    def end(self, step: StepView) -> None:
        """Note that every element has a class now."""
        for flat in step.flats:
            flat.kept.classified = True

    def _mask(self, update: Tensor, chunk: Chunk) -> Tensor:
        """Return `update` with its conflicting entries set to zero, and count the classes."""
        mastered, part, stats = chunk.flat.kept, chunk.part, chunk.stats
        sign = mastered.sign(part)
        mask = collaborative(update, sign)
        conflict = ~mask
        stats.add(conflict=conflict.count_nonzero(), zero=((update == 0) | (sign == 0)).count_nonzero())
        values = mastered.values(part)
        if values is not None:
            s = contribution(update, values)
            stats.add(conflict_mass=s.clamp(max=0).sum(), predicted_change=-chunk.lr * s.clamp(min=0).sum())
        flips = mastered.classify(part, conflict, mark_flips=chunk.mark_flips)
        if mastered.classified:
            stats.add(flips=flips, flip_of=mask.numel())
        return update * mask
