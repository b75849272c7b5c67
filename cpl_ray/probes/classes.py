"""The classes of all parameters at moments of training, gathered and written as masks; and training on such a mask."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cpl_ray.masks import load_masks, save_masks, shuffled
from cpl_ray.methods.fixed_mask import FixedMask
from cpl_ray.probes.base import Probe
from cpl_ray.probes.stability import conflicting

if TYPE_CHECKING:
    from cpl_ray.loop import TrainingLoop


class ClassesProbe(Probe):
    """Writes `step_NNNNNNNN.safetensors`, True = collaborative, after the first update, every so many, and the last.

    Args:
        folder: as for `Probe`.
        every: updates between two masks.
    """

    def __init__(self, folder: Path, *, every: int) -> None:
        super().__init__(folder)
        self._every = every

    def after_update(self, loop: "TrainingLoop") -> None:
        """Write the classes of the first update and of every `every`-th after it."""
        if (loop.state.step - 1) % self._every == 0:
            self._write(loop)

    def end(self, loop: "TrainingLoop") -> None:
        """Write the classes of the last update."""
        self._write(loop)
        super().end(loop)

    def _write(self, loop: "TrainingLoop") -> None:
        optimizer, layout = loop.engine.optimizer, loop.engine.layout()
        classes = conflicting(optimizer.kept_states)
        masks = {}
        for name, shape in layout.shapes.items():
            whole = torch.zeros(torch.Size(shape).numel(), dtype=torch.float64, device=loop.engine.device)
            for pieces, flat in zip(layout.flats, classes, strict=True):
                for piece in pieces:
                    if piece.name == name:
                        whole[piece.start : piece.start + piece.numel] = flat[piece.part].double()
            masks[name] = (optimizer.sum_over_partitions(whole) == 0).cpu()
        if loop.comm.rank == 0:
            save_masks(self._folder / f"step_{loop.state.step:08d}.safetensors", masks)


class FixedMaskProbe(Probe):
    """Exchanges the run's method for a fixed mask, read from a file.

    Args:
        folder: as for `Probe`; nothing is written.
        mask: what `ClassesProbe` wrote, visible to every node.
        shuffle_seed: put its elements elsewhere, as a control; None: take it as it is.
    """

    def __init__(self, folder: Path, *, mask: Path, shuffle_seed: int | None = None) -> None:
        super().__init__(folder)
        self._mask, self._shuffle_seed = mask, shuffle_seed

    def start(self, loop: "TrainingLoop") -> None:
        """Put the mask in the method's place."""
        masks = load_masks(self._mask)
        if self._shuffle_seed is not None:
            masks = shuffled(masks, self._shuffle_seed)
        loop.engine.optimizer.method = FixedMask(masks)
