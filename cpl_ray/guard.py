"""The guard of finite steps: does the mastered loss really not rise, and what is done where it does.

The rule promises that to first order in the rate. The guard measures the loss of the very sample that gave the g_M in
use, before and after each update (dropout off, forward passes only), and can shorten a step that broke the promise:
theta <- start + c * (theta - start), c in [0, 1]. Masks and moments do not depend on the rate, so this is the same as
having made the step at c times the rate, in every ZeRO stage, and needs one copy of the float32 masters.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cpl_ray.batches import MicroBatch
from cpl_ray.collectives import Collectives
from cpl_ray.config_methods import GuardConfig
from cpl_ray.errors import NonFiniteError
from cpl_ray.passes import Passes
from cpl_ray.step import Engine, mean_loss

PROBE = 0.5  # where along a step the loss is measured for its curvature
LEAST = 1 / 16  # a fit over a long step knows little of its beginning: cut by no more at once, then measure again


def safe_share(start: float, middle: float, end: float, allowed: float) -> float:
    """Return the share of a step, in [1/16, 1/2], that a quadratic through three losses along it calls safe.

    Along a step d at rate eta the loss is L(c) = L(0) - c * eta * (d . g_M) + c^2 * eta^2 * (d' H d) / 2 + ...; slope
    and curvature follow from L(0), L(1/2) and L(1). The loss stays within L(0) + allowed up to the smallest positive
    root; for allowed = 0 that is the bound eta <= 2 (d . g_M) / (d' H d). Half of it is taken: for allowed = 0 the
    minimiser along the step, which leaves room for what is not quadratic.

    Args:
        start: L(0).
        middle: L(1/2).
        end: L(1), above `start + allowed`.
        allowed: increase that is tolerated, >= 0.
    """
    if not (math.isfinite(middle) and math.isfinite(end)):
        return PROBE / 2  # nothing to fit
    curvature = 2 * (end - 2 * middle + start)
    slope = end - start - curvature
    root = math.sqrt(max(0.0, slope**2 + 4 * curvature * allowed))
    # two forms of the same root, each without cancellation; with slope <= 0 the curvature is > 0, as end > start
    bound = 2 * allowed / (slope + root) if slope > 0 else (root - slope) / (2 * curvature)
    return max(min(bound, 1.0) / 2, LEAST)


class Guard:
    """Watches every update of a run.

    A step has *held* if, as the optimizer formed it, it raised the loss by no more than `tolerance` of it. One that has
    not is cut (`adapt`, `rollback`) or, where that does not help, left out: theta stays bit for bit, the moments keep
    what the gradient fed them. Nothing is remembered between updates but what can be measured again.

    Args:
        settings: mode and limits.
        engine: holds model and optimizer.
        comm: all ranks measure together, so all decide alike.
        passes: knows the sample of each refresh.
    """

    def __init__(self, settings: GuardConfig, engine: Engine, comm: Collectives, passes: Passes) -> None:
        self._settings, self._engine, self._comm, self._passes = settings, engine, comm, passes
        self._mends = settings.mode in ("adapt", "rollback")
        self._sample: tuple[int, Sequence[MicroBatch]] = (-1, ())  # of which refresh
        self._known: tuple[int, float] = (-1, 0.0)  # its loss at the present parameters, if it was measured there
        self._before = 0.0
        self._starts: list[Tensor] = []

    def begin(self, epoch: int, captures: int) -> None:
        """Measure before an update; where steps can be cut, keep a copy of the masters.

        Args:
            epoch: of the update.
            captures: refreshes done; the last one's sample is measured.

        Raises:
            NonFiniteError: the loss is not finite.
        """
        if self._sample[0] != captures:
            self._sample = captures, self._passes.sample(epoch, captures - 1)
        self._before = self._known[1] if self._known[0] == captures else self._loss()
        if not math.isfinite(self._before):
            raise NonFiniteError(f"the mastered loss is {self._before} before the update; no parameter was moved")
        if self._mends:
            self._starts = [master.detach().clone() for master in self._engine.masters()]

    def end(self, record: dict[str, float], tally: dict[str, int]) -> None:
        """Measure after an update and mend it where it broke the promise.

        Args:
            record: of the update; what was measured is added, what was predicted of the whole step is scaled.
            tally: counts of a run: `steps`, `held`, `cut`, `undone`; changed in place.

        Raises:
            NonFiniteError: the loss is not finite after the update, and the mode only monitors.
        """
        after, scale = self._loss(), 1.0
        held = self._holds(after)
        if not held and self._mends:
            scale, after = self._mended(after)
        if not math.isfinite(after):
            raise NonFiniteError(
                f"the mastered loss is {after} after the update; guard.mode adapt or rollback would have cut the step"
            )
        self._starts = []
        self._known = self._sample[0], after
        record |= {"mastered_loss_before": self._before, "mastered_loss_after": after, "held": float(held)}
        record["measured_change"] = after - self._before
        if self._mends:
            record["step_scale"] = scale
        if "predicted_change" in record:
            record["predicted_change"] *= scale
        if scale == 0.0:
            record["moved_share"] = 0.0
        outcome = {"steps": 1, "held": int(held), "cut": int(0.0 < scale < 1.0), "undone": int(scale == 0.0)}
        for name, count in outcome.items():
            tally[name] = tally.get(name, 0) + count

    def _mended(self, after: float) -> tuple[float, float]:
        """Shorten the step until it holds, or leave it out; return the share of it that stays, and the loss there."""
        scale = 1.0
        for _ in range(self._settings.max_retries):
            share = self._settings.shrink
            if self._settings.mode == "adapt":
                self._shorten(PROBE)
                share = safe_share(self._before, self._loss(), after, self._settings.tolerance * self._before)
            self._shorten(share / PROBE if self._settings.mode == "adapt" else share)
            scale *= share
            after = self._loss()
            if self._holds(after):
                return scale, after
        self._shorten(0.0)
        return 0.0, self._before

    @torch.no_grad()
    def _shorten(self, share: float) -> None:
        """Keep a share of the step made so far; 0 puts the parameters back bit for bit."""
        for master, start in zip(self._engine.masters(), self._starts, strict=True):
            if share == 0.0:
                master.copy_(start)
            else:
                master.sub_(start).mul_(share).add_(start)
        self._engine.publish()

    def _holds(self, after: float) -> bool:
        return after - self._before <= self._settings.tolerance * self._before

    def _loss(self) -> float:
        return mean_loss(self._engine, self._sample[1], self._comm)


def guard_summary(mode: str, tally: dict[str, int]) -> dict[str, Any] | None:
    """Return what a run's result says of its guard: held in N of M steps; None where there was none."""
    if not tally:
        return None
    return {"mode": mode, **tally, "share": tally["held"] / tally["steps"]}
