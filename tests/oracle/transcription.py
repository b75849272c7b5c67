"""The reference algorithm, transcribed from its equations alone; imports nothing of the project.

Refresh `epoch`, one injection item per update in file order, each item's update masked by the epoch's whole-set
gradient. Any float dtype. Written for clarity: per-tensor loops, every quantity by its formula.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Item = tuple[list[int], list[int]]  # prompt tokens, answer tokens


def token_losses(model: nn.Module, item: Item) -> Tensor:
    """Return the sum of the answer tokens' cross-entropies of one item."""
    prompt, answer = item
    tokens = torch.tensor([prompt + answer])
    logits = model(input_ids=tokens).logits[0, len(prompt) - 1 : -1]
    return F.cross_entropy(logits, torch.tensor(answer), reduction="sum")


def mean_gradient(model: nn.Module, items: list[Item]) -> list[Tensor]:
    """Return the gradient of the mean loss over the supervised tokens of `items`."""
    count = sum(len(answer) for _, answer in items)
    total = torch.stack([token_losses(model, item) for item in items]).sum() / count
    return list(torch.autograd.grad(total, list(model.parameters())))


def train(
    model: nn.Module,
    mastered: list[Item],
    injection: list[Item],
    *,
    optimizer: str,
    lr: float,
    epochs: int,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    max_grad_norm: float | None = None,
    batch: int = 1,
    masks: list[list[Tensor]] | None = None,
) -> list[float]:
    """Train in place; return the collaborative share of every update.

    `batch` items make an update; `masks` is given, by update and parameter, where the update was opposed to g_M.
    """
    params = list(model.parameters())
    b = [torch.zeros_like(p) for p in params]
    m = [torch.zeros_like(p) for p in params]
    v = [torch.zeros_like(p) for p in params]
    shares = []
    t = 0
    for _ in range(epochs):
        g_m = mean_gradient(model, mastered)
        for first in range(0, len(injection), batch):
            g = mean_gradient(model, injection[first : first + batch])
            if max_grad_norm is not None:
                norm = torch.sqrt(torch.stack([(x**2).sum() for x in g]).sum())
                g = [x * min(1.0, float(max_grad_norm / (norm + 1e-6))) for x in g]
            t += 1
            agree = 0
            if masks is not None:
                masks.append([])
            with torch.no_grad():
                for j, theta in enumerate(params):
                    grad = g[j]
                    if optimizer in ("sgd", "adam"):
                        grad = grad + weight_decay * theta
                    if optimizer == "sgd":
                        b[j] = momentum * b[j] + grad
                        u = b[j]
                    else:
                        m[j] = betas[0] * m[j] + (1 - betas[0]) * grad
                        v[j] = betas[1] * v[j] + (1 - betas[1]) * grad**2
                        m_hat = m[j] / (1 - betas[0] ** t)
                        v_hat = v[j] / (1 - betas[1] ** t)
                        u = m_hat / (torch.sqrt(v_hat) + eps)
                        if optimizer == "adamw":
                            u = u + weight_decay * theta
                    opposed = ((u > 0) & (g_m[j] < 0)) | ((u < 0) & (g_m[j] > 0))
                    theta.copy_(theta - lr * torch.where(opposed, torch.zeros_like(u), u))
                    agree += int((~opposed).sum())
                    if masks is not None:
                        masks[-1].append(opposed)
            shares.append(agree / sum(p.numel() for p in params))
    return shares
