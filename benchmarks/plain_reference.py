"""The reference algorithm's schedule as plain torch would have it: one item a pass, one tensor at a time, eager.

Imports nothing of the project's training code. Written for a fair race: tensors are made before, the signs of g_M once
an epoch, moments change in place, and nothing is measured on the way.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cpl_ray.encoding import Encoded

Item = tuple[Tensor, Tensor]
"""Tokens, int64 `[1, length]`, and the answer at their end, int64 `[num_targets]`."""


def plain_items(rows: Sequence[Encoded]) -> list[Item]:
    """Return the tensors of encoded items."""
    return [(torch.tensor([[*row.context_ids, *row.target_ids]]), torch.tensor(row.target_ids)) for row in rows]


def train(
    model: nn.Module,
    mastered: Sequence[Item],
    injection: Sequence[Item],
    *,
    optimizer: str,
    lr: float,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> Iterator[None]:
    """Train in place, in file order; yields after every epoch, without end.

    Args:
        model: a causal language model.
        mastered: all of M train: the mean gradient of its answer tokens is taken at the start of every epoch.
        injection: each item makes one update.
        optimizer: `sgd`, `adam` or `adamw`; decay as torch has it.
        lr: learning rate.
        weight_decay: decay of every parameter.
        betas: decay rates of Adam's moments.
        eps: added outside the root.
    """
    if optimizer not in ("sgd", "adam", "adamw"):
        raise ValueError(f"optimizer {optimizer!r} is not one of sgd, adam, adamw")
    (beta1, beta2), step = betas, 0
    params = [param for param in model.parameters() if param.requires_grad]
    first = [torch.zeros_like(param) for param in params]
    second = [torch.zeros_like(param) for param in params]
    num_targets = sum(len(answer) for _, answer in mastered)
    model.train()
    while True:
        model.zero_grad()
        for item in mastered:
            (_loss_sum(model, item) / num_targets).backward()
        signs = [torch.sign(_gradient(param)) for param in params]
        for item in injection:
            model.zero_grad()
            (_loss_sum(model, item) / len(item[1])).backward()
            step += 1
            with torch.no_grad():
                for param, sign, m, v in zip(params, signs, first, second, strict=True):
                    gradient = _gradient(param)
                    if weight_decay and optimizer != "adamw":
                        gradient = gradient + weight_decay * param
                    if optimizer == "sgd":
                        update = gradient
                    else:
                        m.mul_(beta1).add_(gradient, alpha=1 - beta1)
                        v.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
                        update = (m / (1 - beta1**step)) / ((v / (1 - beta2**step)).sqrt() + eps)
                    if weight_decay and optimizer == "adamw":
                        update = update + weight_decay * param
                    param.sub_(update * (torch.sign(update) * sign >= 0), alpha=lr)
        yield


def _loss_sum(model: nn.Module, item: Item) -> Tensor:
    tokens, answer = item
    logits = model(input_ids=tokens, use_cache=False).logits[0, -len(answer) - 1 : -1]
    return F.cross_entropy(logits, answer, reduction="sum")


def _gradient(param: Tensor) -> Tensor:
    assert param.grad is not None
    return param.grad
