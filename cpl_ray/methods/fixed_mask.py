"""A mask that does not change: what an earlier run found is taken for true (the paper's weakest assumption)."""

import torch
from torch import Tensor

from cpl_ray.layout import Layout
from cpl_ray.methods.base import Chunk, Method


class FixedMask(Method):
    """The update times a mask that does not change: theta_j <- theta_j - lr * u_j * mask_j.

    Args:
        masks: by parameter name, bool `[num_params]` of the whole parameter, True = may move.
    """

    needs_layout = True

    def __init__(self, masks: dict[str, Tensor]) -> None:
        self._masks = masks
        self._flats: list[list[tuple[slice, Tensor]]] = []

    def bind(self, layout: Layout) -> None:
        """Cut the masks as the parameters are cut.

        Raises:
            ValueError: a parameter has no mask, or one of another size.
        """
        for name, shape in layout.shapes.items():
            numel = torch.Size(shape).numel()
            if name not in self._masks or self._masks[name].numel() != numel:
                raise ValueError(f"the mask does not fit parameter {name} of shape {shape}")
        self._flats = [
            [(piece.part, self._masks[piece.name][piece.start : piece.start + piece.numel]) for piece in pieces]
            for pieces in layout.flats
        ]

    def update(self, update: Tensor, chunk: Chunk) -> Tensor:
        """Return the update where the mask is set, zero elsewhere (padding included)."""
        mask = torch.zeros(update.numel(), dtype=torch.bool)
        for place, own in self._flats[chunk.flat.index]:
            start, stop = max(place.start, chunk.part.start), min(place.stop, chunk.part.stop)
            if start < stop:
                mask[start - chunk.part.start : stop - chunk.part.start] = own[start - place.start : stop - place.start]
        return update * mask.to(update.device)
