"""How the gradients of the two sets agree, parameter by parameter, and how single mastered items agree with injection.

s_j = g_I,j * g_M,j and S(M, I) = sum_j s_j (arXiv 2601.21577, section 3): for plain SGD the update u is g_I. Both
gradients are exact, over the whole of M train and of injection train, dropout off.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cpl_ray.layout import Layout, layer_names
from cpl_ray.probes.base import Probe
from cpl_ray.probes.gauge import Gauge, Gradient
from cpl_ray.rule import collaborative, contribution
from cpl_ray.studies.names import parameter_type

if TYPE_CHECKING:
    from cpl_ray.loop import TrainingLoop

LOWEST, HIGHEST, PER_DECADE = -20, 4, 2  # bins of log10 |s_j|; what lies outside is counted in the last bin
NUM_BINS = (HIGHEST - LOWEST) * PER_DECADE
_SUMS = ("conflict", "zero", "negative", "positive")
CHUNK = 1 << 20  # elements at once: bounds scratch memory


class SimilarityProbe(Probe):
    """Measures S and the classes before the first update, every so many updates and after the last; items at first.

    Tables: `course` (a row for each moment), `parameters` (moment x parameter), `histogram` (before the first update),
    `items` (a row for each of the first `items` of M train, before the first update).

    Args:
        folder: as for `Probe`.
        every: updates between two moments.
        items: mastered items looked at one by one; 0: none.
    """

    def __init__(self, folder: Path, *, every: int, items: int) -> None:
        super().__init__(folder)
        self._every, self._items = every, items

    def before_update(self, loop: "TrainingLoop") -> None:
        """Measure at every `every`-th update."""
        if loop.state.step % self._every == 0:
            self._measure(loop)

    def end(self, loop: "TrainingLoop") -> None:
        """Measure the trained model, then write the tables."""
        self._measure(loop)
        super().end(loop)

    def _measure(self, loop: "TrainingLoop") -> None:
        gauge, step = Gauge(loop), loop.state.step
        mastered = gauge.gradient("mastered", tuple(range(loop.passes.num_rows("mastered"))))
        injection = gauge.gradient("injection", tuple(range(loop.passes.num_rows("injection"))))
        layout = loop.engine.layout()
        sums = loop.comm.sum(parameter_sums(layout, injection.values, mastered.values).view(-1).tolist())
        layers = layer_names(list(layout.shapes))
        totals = dict.fromkeys(_SUMS, 0.0)
        num_params = 0
        for index, (name, shape) in enumerate(layout.shapes.items()):
            own = sums[index * len(_SUMS) : (index + 1) * len(_SUMS)]
            values = {key: value / loop.engine.replicas for key, value in zip(_SUMS, own, strict=True)}
            numel = torch.Size(shape).numel()
            num_params += numel
            totals = {key: totals[key] + values[key] for key in _SUMS}
            about = {"layer": layers[name], "type": parameter_type(name), "numel": numel}
            self.add("parameters", step=step, parameter=name, **about, **_columns(values))
        norms = {"norm_mastered": mastered.norm, "norm_injection": injection.norm}
        losses = {"loss_mastered": mastered.loss, "loss_injection": injection.loss}
        self.add("course", step=step, numel=num_params, **_columns(totals), **norms, **losses)
        if step == 0:
            self._histogram(loop, layout, injection, mastered)
            self._by_item(loop, gauge, injection)

    def _histogram(self, loop: "TrainingLoop", layout: Layout, injection: Gradient, mastered: Gradient) -> None:
        counts = loop.comm.sum(histogram(layout, injection.values, mastered.values).view(-1).tolist())
        for side, sign in enumerate(("conflicting", "collaborative")):
            for place in range(NUM_BINS):
                low = LOWEST + place / PER_DECADE
                count = int(counts[side * NUM_BINS + place] / loop.engine.replicas)
                self.add("histogram", side=sign, log10_low=low, log10_high=low + 1 / PER_DECADE, count=count)

    def _by_item(self, loop: "TrainingLoop", gauge: Gauge, injection: Gradient) -> None:
        for row in range(min(self._items, loop.passes.num_rows("mastered"))):
            own = gauge.gradient("mastered", (row,))
            (name,) = loop.passes.ids("mastered", (row,))
            similarity = gauge.dot(own.values, injection.values)
            cosine = similarity / (own.norm * injection.norm) if own.norm * injection.norm else 0.0
            self.add("items", id=name, similarity=similarity, cosine=cosine, norm=own.norm, loss=own.loss)


def parameter_sums(layout: Layout, update: Sequence[Tensor], mastered: Sequence[Tensor]) -> Tensor:
    """Return for each parameter of the layout what this rank's elements add to its sums.

    Args:
        layout: of this rank's partition; padding is in none of its pieces.
        update: u by flat tensor, `[num_params]` each.
        mastered: g_M likewise.

    Returns:
        float64 `[number of parameters, 4]`: elements with s_j < 0, elements with s_j = 0, sum of the negative s_j,
        sum of the positive s_j. Classes are told by signs, so that nothing underflows.
    """
    index = {name: number for number, name in enumerate(layout.shapes)}
    sums = torch.zeros(len(index), len(_SUMS), dtype=torch.float64)
    for name, u, g in _pieces(layout, update, mastered):
        s = contribution(u, g)
        zero = (torch.sign(u) * torch.sign(g) == 0).sum()
        counts = ((~collaborative(u, g)).sum(), zero, s.clamp(max=0).sum(), s.clamp(min=0).sum())
        sums[index[name]] += torch.stack([count.double() for count in counts]).cpu()
    return sums


def histogram(layout: Layout, update: Sequence[Tensor], mastered: Sequence[Tensor]) -> Tensor:
    """Return how many of this rank's s_j are negative, then positive, by bin of log10 |s_j|: float64 `[2, NUM_BINS]`.

    Zeros are in no bin; values outside the bins are counted in the nearest.
    """
    counts = torch.zeros(2, NUM_BINS, dtype=torch.float64)
    for _, u, g in _pieces(layout, update, mastered):
        s = contribution(u, g)
        places = ((s.abs().log10() - LOWEST) * PER_DECADE).floor().clamp(0, NUM_BINS - 1)
        for side, chosen in enumerate((s < 0, s > 0)):
            counts[side] += torch.bincount(places[chosen].long(), minlength=NUM_BINS).cpu()
    return counts


def _pieces(layout: Layout, *vectors: Sequence[Tensor]) -> "list[tuple[str, Tensor, Tensor]]":
    found = []
    for pieces, first, second in zip(layout.flats, *vectors, strict=True):
        for piece in pieces:
            for start in range(piece.part.start, piece.part.stop, CHUNK):
                part = slice(start, min(start + CHUNK, piece.part.stop))
                found.append((piece.name, first[part], second[part]))
    return found


def _columns(values: dict[str, float]) -> dict[str, float]:
    """Return counts as whole numbers, masses, and their sum S."""
    counts = {"conflict": int(values["conflict"]), "zero": int(values["zero"])}
    masses = {"negative_mass": values["negative"], "positive_mass": values["positive"]}
    return {**counts, **masses, "similarity": values["negative"] + values["positive"]}
