"""How far first order carries: one step's direction at many learning rates, predicted against measured mastered loss.

First order says that theta - lr * d changes L_M by -lr * sum_j d_j g_M,j (arXiv 2601.21577, section 3). Both sides are
taken on the very rows whose gradient the rule uses at that moment, dropout off.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from cpl_ray.gradients import Watched
from cpl_ray.order import Rows
from cpl_ray.probes.base import Probe
from cpl_ray.probes.gauge import Gauge, Gradient

if TYPE_CHECKING:
    from cpl_ray.loop import TrainingLoop

DIRECTIONS = ("unmasked", "applied")


class TaylorProbe(Probe):
    """Tries every so many updates the update that was just made at each rate, from the state before it.

    The table `steps` has a row for each moment, direction (`unmasked`: u as the optimizer formed it; `applied`: what
    the method left of it) and rate. Keeps five copies of this rank's partition meanwhile.

    Args:
        folder: as for `Probe`.
        every: updates between two moments; the first is the first update.
        rates: learning rates to try.
    """

    def __init__(self, folder: Path, *, every: int, rates: Sequence[float]) -> None:
        super().__init__(folder)
        self._every, self._rates = every, list(rates)
        self._rows: Rows | None = None
        self._before: tuple[Gradient, list[Tensor]] | None = None

    def start(self, loop: "TrainingLoop") -> None:
        """Watch the updates of the run's method."""
        optimizer = loop.engine.optimizer
        self._watched = optimizer.method = Watched(optimizer.method)

    def before_update(self, loop: "TrainingLoop") -> None:
        """Keep the state and g_M where a moment begins."""
        refresh, step = loop.config.train.refresh, loop.state.step
        epoch, index = divmod(step, loop.steps_per_epoch)
        due = index == 0 if refresh == "epoch" else step % int(refresh) == 0
        if due or self._rows is None:
            self._rows = tuple(sorted(loop.passes.mastered_rows(epoch, loop.state.captures)))
        self._watched.watching = step % self._every == 0
        if self._watched.watching:
            mastered = Gauge(loop).gradient("mastered", self._rows)
            self._before = mastered, [param.detach().clone() for param in mastered.params]

    def after_update(self, loop: "TrainingLoop") -> None:
        """Try the update at each rate, then go on from where it led."""
        if self._before is None:
            return
        assert self._rows is not None
        gauge, (mastered, before) = Gauge(loop), self._before
        after = [param.detach().clone() for param in mastered.params]
        used = loop.engine.optimizer.param_groups[0]["lr"]
        gauge.put(mastered.params, before)
        loss = gauge.loss(self._rows)
        for name, found in zip(DIRECTIONS, (self._watched.formed, self._watched.applied), strict=True):
            direction = [found[index] for index in range(len(before))]
            slope = gauge.dot(direction, mastered.values)
            for rate in self._rates:
                gauge.put(
                    mastered.params, [b.sub(d.view_as(b), alpha=rate) for b, d in zip(before, direction, strict=True)]
                )
                changes = {"predicted": -rate * slope, "measured": gauge.loss(self._rows) - loss}
                about = {"step": loop.state.step - 1, "direction": name, "rate": rate, "rate_used": used}
                self.add("steps", **about, loss=loss, **changes)
        gauge.put(mastered.params, after)
        self._watched.formed, self._watched.applied, self._before = {}, {}, None
