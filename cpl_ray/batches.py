"""Encoded items to padded tensors, in groups of similar length."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from cpl_ray.encoding import Encoded
from cpl_ray.length_groups import length_groups
from cpl_ray.loss import IGNORE
from cpl_ray.vision import Vision


@dataclass(frozen=True)
class Batch:
    """One forward pass.

    `positions` are the columns at which anything in the batch is supervised; only there are logits needed.
    """

    input_ids: Tensor
    """int64 `[batch, length]`, padded on the right."""
    attention_mask: Tensor
    """int64 `[batch, length]`, 1 = token, 0 = padding."""
    positions: Tensor
    """int64 `[num_positions]`, ascending."""
    labels: Tensor
    """int64 `[batch, num_positions]`: the token to be predicted at each position, `IGNORE` where none is."""
    num_targets: int
    """Supervised tokens."""
    num_tokens: int
    """Tokens without padding."""
    images: dict[str, Tensor] = field(default_factory=dict)
    """What the processor of a vision-language model makes of the images, by name of the model's input."""

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        if device.type == "cpu":
            return self
        names = ("input_ids", "attention_mask", "positions", "labels")
        moved = {name: self.__dict__[name].to(device) for name in names}
        images = {name: tensor.to(device) for name, tensor in self.images.items()}
        return replace(self, **moved, images=images)


MicroBatch = tuple[Batch, ...]
"""Forward passes that share one backward pass."""


def micro_batch(items: Sequence[Encoded], pad_id: int, *, cost: int | None, vision: Vision | None = None) -> MicroBatch:
    """Return the batches of one micro-batch: items of similar length together, so that little is padding.

    The loss of a micro-batch is a sum over its items, so the cut changes nothing but rounding.

    Args:
        items: encoded items, in order; may be empty (see `collate`).
        pad_id: token id of padding.
        cost: as in `length_groups`.
        vision: makes the inputs of images; then all items share one pass.
    """
    if vision is not None or not items:
        return (collate(items, pad_id, vision),)
    lengths = [len(item.context_ids) + len(item.target_ids) for item in items]
    batches, shorter = [], 0
    for longest in length_groups(lengths, cost):
        group = [item for item, length in zip(items, lengths, strict=True) if shorter < length <= longest]
        batches.append(collate(group, pad_id))
        shorter = longest
    return tuple(batches)


def collate(items: Sequence[Encoded], pad_id: int, vision: Vision | None = None) -> Batch:
    """Pad encoded items to one batch; the prompt is masked out of the loss, every target token is supervised.

    An empty sequence gives a padding batch: one row of one token with no target, so that a rank without rows still
    takes part in the collectives of the pass. With `vision` a batch without images gets a row with a blank one, again
    without target.
    """
    rows = [(*item.context_ids, *item.target_ids) for item in items]
    images: dict[str, Tensor] = {}
    if vision is not None:
        pad_id = vision.pad_id
        pictures = [item.image for item in items if item.image is not None]
        if not pictures:
            rows.append(vision.blank_row)
        images = vision.inputs(pictures or [None])
    rows = rows or [(pad_id,)]
    length = max(len(row) for row in rows)
    input_ids = torch.full((len(rows), length), pad_id, dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    labels = torch.full_like(input_ids, IGNORE)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = torch.tensor(row)
        attention_mask[index, : len(row)] = 1
    for index, item in enumerate(items):
        start = len(item.context_ids) - 1  # the token at position p is predicted at p - 1
        labels[index, start : start + len(item.target_ids)] = torch.tensor(item.target_ids)
    supervised = (labels != IGNORE).any(dim=0)
    positions = supervised.nonzero().view(-1) if bool(supervised.any()) else torch.zeros(1, dtype=torch.int64)
    return Batch(
        input_ids,
        attention_mask,
        positions,
        labels[:, positions],
        num_targets=int((labels != IGNORE).sum()),
        num_tokens=sum(len(item.context_ids) + len(item.target_ids) for item in items) or len(rows[0]),
        images=images,
    )
