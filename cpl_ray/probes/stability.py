"""Whether parameters keep their class: counted after every update, by layer, from the classes the rule itself keeps."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cpl_ray.layout import Layout, layer_names
from cpl_ray.mastered import SignState
from cpl_ray.probes.base import Probe

if TYPE_CHECKING:
    from cpl_ray.loop import TrainingLoop


class StabilityProbe(Probe):
    """Compares classes from update to update, from epoch to epoch, and over windows.

    Tables, each by layer with `numel`: `steps` (`conflict` and `flips` of each update; no flips at the first), `epochs`
    (`flips` against the end of the epoch before), `windows` (`never_flipped`, of these `always_conflicting`, and
    `flips` over all updates of the window but its first). Keeps 6 bytes per element of this rank's partition.

    Args:
        folder: as for `Probe`.
        window: updates in a window; a last, shorter one is left out.
    """

    def __init__(self, folder: Path, *, window: int) -> None:
        super().__init__(folder)
        self._window = window
        self._previous: list[Tensor] | None = None
        self._of_epoch: list[Tensor] | None = None
        self._flips: list[Tensor] = []
        self._since = 0

    def after_update(self, loop: "TrainingLoop") -> None:
        """Count what the last mask changed."""
        layout, step = loop.engine.layout(), loop.state.step
        now = conflicting(loop.engine.optimizer.kept_states)
        flipped = None if self._previous is None else [a != b for a, b in zip(now, self._previous, strict=True)]
        counts = self._by_layer(loop, layout, now)
        flips = None if flipped is None else self._by_layer(loop, layout, flipped)
        for layer, (numel, conflict) in counts.items():
            changed = None if flips is None else flips[layer][1]
            self.add("steps", step=step, layer=layer, numel=numel, conflict=conflict, flips=changed)
        self._watch_window(loop, layout, now, flipped)
        if step % loop.steps_per_epoch == 0:
            if self._of_epoch is not None:
                changed_classes = [a != b for a, b in zip(now, self._of_epoch, strict=True)]
                for layer, (numel, changed) in self._by_layer(loop, layout, changed_classes).items():
                    self.add("epochs", epoch=step // loop.steps_per_epoch, layer=layer, numel=numel, flips=changed)
            self._of_epoch = now
        self._previous = now

    def _watch_window(
        self, loop: "TrainingLoop", layout: Layout, now: list[Tensor], flipped: list[Tensor] | None
    ) -> None:
        if self._since == 0 or flipped is None:
            self._flips = [torch.zeros(one.numel(), dtype=torch.int16, device=one.device) for one in now]
        else:
            for total, one in zip(self._flips, flipped, strict=True):
                total += one
        self._since += 1
        if self._since < self._window:
            return
        never = [total == 0 for total in self._flips]
        kept = self._by_layer(loop, layout, never)
        conflict = self._by_layer(loop, layout, [a & b for a, b in zip(never, now, strict=True)])
        flips = self._by_layer(loop, layout, self._flips)
        for layer, (numel, count) in kept.items():
            window = {"first": loop.state.step - self._window + 1, "last": loop.state.step}
            about = {"never_flipped": count, "always_conflicting": conflict[layer][1], "flips": flips[layer][1]}
            self.add("windows", **window, layer=layer, numel=numel, **about)
        self._since = 0

    @staticmethod
    def _by_layer(loop: "TrainingLoop", layout: Layout, values: Sequence[Tensor]) -> dict[str, tuple[int, int]]:
        """Return by layer its number of elements and the sum of `values` over them, all ranks together."""
        layers = layer_names(list(layout.shapes))
        names = list(dict.fromkeys(layers.values()))
        index = {name: number for number, name in enumerate(names)}
        sums = [0.0] * len(names)
        numel = [0] * len(names)
        for name, shape in layout.shapes.items():
            numel[index[layers[name]]] += torch.Size(shape).numel()
        for pieces, flat in zip(layout.flats, values, strict=True):
            for piece in pieces:
                sums[index[layers[piece.name]]] += float(flat[piece.part].sum(dtype=torch.int64))
        totals = loop.comm.sum(sums)
        replicas = loop.engine.replicas
        return {name: (numel[i], round(totals[i] / replicas)) for i, name in enumerate(names)}


def conflicting(states: Sequence[object]) -> list[Tensor]:
    """Return the classes of the last mask, bool `[num_params]` by flat tensor, True = conflicting."""
    classes = []
    for state in states:
        assert isinstance(state, SignState), "only the rule keeps classes"
        classes.append(state.conflicting(slice(None)))
    return classes
