"""The training loss: cross-entropy of the answer tokens, summed, to be divided by the global token count."""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100


def supervised_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of the token losses, a scalar in float32 (float64 stays).

    The sum, not the mean: L = (sum over ranks and micro-batches) / (global count of supervised tokens), so that
    sharding, padding and accumulation cannot change it.

    Args:
        logits: `[batch, positions, vocab]`; position p predicts `labels[:, p]`.
        labels: int64 `[batch, positions]`, `IGNORE` where nothing is supervised. With no label at all the loss is zero
            but still depends on every logit, so that collectives of the backward pass happen on every rank.
    """
    chosen = labels != IGNORE
    if not bool(chosen.any()):
        return logits.sum() * 0.0
    selected = logits[chosen]
    if selected.dtype in (torch.float16, torch.bfloat16):
        selected = selected.float()
    return F.cross_entropy(selected, labels[chosen], reduction="sum")
