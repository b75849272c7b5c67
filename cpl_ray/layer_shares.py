"""What the rule lets move, layer by layer: counted over all ranks from the classes that the mastered state keeps."""

import math
from collections.abc import Sequence

import torch

from cpl_ray.collectives import Collectives
from cpl_ray.errors import LayoutError
from cpl_ray.layout import Layout, layer_names
from cpl_ray.mastered import SignState

CHUNK = 1 << 20  # elements counted at once: bounds scratch memory


class LayerShares:
    """Measures each layer's collaborative share and flip rate after an update.

    Args:
        layout: of this rank's optimizer.
        replicas: how many ranks hold each element (the world size in ZeRO stage 0, else 1).
        comm: all ranks make one together.

    Raises:
        LayoutError: the ranks together do not hold every element of a layer exactly `replicas` times.
    """

    def __init__(self, layout: Layout, replicas: int, comm: Collectives) -> None:
        self._comm = comm
        layers = layer_names([name for name, shape in layout.shapes.items() if math.prod(shape)])
        self.names = list(dict.fromkeys(layers.values()))
        index = {name: number for number, name in enumerate(self.names)}
        expected = [0] * len(self.names)
        for param, layer in layers.items():
            expected[index[layer]] += math.prod(layout.shapes[param]) * replicas
        self._runs: list[list[tuple[int, slice]]] = [[] for _ in layout.flats]
        for runs, pieces in zip(self._runs, layout.flats, strict=True):
            for piece in pieces:
                number = index[layers[piece.name]]
                if runs and runs[-1][0] == number and runs[-1][1].stop == piece.part.start:
                    runs[-1] = (number, slice(runs[-1][1].start, piece.part.stop))
                else:
                    runs.append((number, piece.part))
        local = [0.0] * len(self.names)
        for number, part in (run for runs in self._runs for run in runs):
            local[number] += part.stop - part.start
        self._numel = comm.sum(local)
        for name, numel, wanted in zip(self.names, self._numel, expected, strict=True):
            if numel != wanted:
                raise LayoutError(f"the ranks hold {numel:.0f} elements of {name}; expected {wanted}")

    def measure(self, states: Sequence[object]) -> tuple[dict[str, float], dict[str, float]]:
        """Return by layer the share of elements that may move, and of those whose class the last mask changed.

        Args:
            states: of the optimizer's tensors in their order, after a masked update. The second result is meaningful
                only if that update marked the flips.
        """
        totals = torch.zeros(2, len(self.names), dtype=torch.int64)
        for state, runs in zip(states, self._runs, strict=True):
            if not isinstance(state, SignState):  # never masked: nothing of it conflicts
                continue
            counts = torch.zeros(2, len(self.names), dtype=torch.int64, device=state.planes.device)
            for number, part in runs:
                for start in range(part.start, part.stop, CHUNK):
                    counts[:, number] += state.count(slice(start, min(start + CHUNK, part.stop)))
            totals += counts.cpu()
        sums = self._comm.sum(totals.view(-1).tolist())
        conflicts, flips = sums[: len(self.names)], sums[len(self.names) :]
        shares = {name: 1.0 - c / n for name, c, n in zip(self.names, conflicts, self._numel, strict=True)}
        return shares, {name: f / n for name, f, n in zip(self.names, flips, self._numel, strict=True)}
