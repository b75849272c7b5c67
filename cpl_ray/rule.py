"""The rule of Collaborative Parameter Learning as pure functions of tensors.

Symbols (arXiv 2601.21577; table in docs/rule.md): g_M mastered gradient, g injection gradient, u update (the direction
the optimizer would apply, theta <- theta - lr * u), s_j = u_j * g_M,j contribution of parameter j.
"""

import torch
from torch import Tensor


def collaborative(update: Tensor, mastered: Tensor) -> Tensor:
    """Tell which parameters may move: s_j >= 0, zero included (the paper's collaborative class).

    Signs are compared, not the product, which would underflow to -0.0 for small factors and pass as agreement.

    Args:
        update: u, `[num_params]`, any float dtype. For plain SGD the injection gradient.
        mastered: g_M or its sign, same shape, float or int8.

    Returns:
        bool `[num_params]`, True = collaborative (may move). Non-finite gradients must have been refused before.
    """
    return torch.sign(update) * torch.sign(mastered) >= 0


def contribution(update: Tensor, mastered_gradient: Tensor) -> Tensor:
    """Return s_j = u_j * g_M,j in float64, `[num_params]`."""
    return update.double() * mastered_gradient.double()


def gradient_similarity(mastered_gradient: Tensor, injection_gradient: Tensor) -> Tensor:
    """Return S(M, I) = <g_M, g_I>, the raw inner product (not a cosine), as a float64 scalar."""
    return contribution(injection_gradient, mastered_gradient).sum()


def predicted_change(update: Tensor, mastered_gradient: Tensor, lr: float) -> Tensor:
    """Return the first-order change of the mastered loss, -lr * sum_j 1[s_j >= 0] * s_j; float64 scalar, never > 0."""
    mask = collaborative(update, mastered_gradient)
    return -lr * contribution(update, mastered_gradient).where(mask, 0.0).sum()


def masked_step_(param: Tensor, update: Tensor, mastered: Tensor, lr: float) -> Tensor:
    """Apply theta_j <- theta_j - lr * u_j * 1[s_j >= 0] in place; return the mask (True = moved by the rule).

    Args:
        param: theta, `[num_params]`, changed in place.
        update: u, `[num_params]`; its conflicting entries are set to zero in place.
        mastered: g_M or its sign, `[num_params]`.
        lr: learning rate, > 0.
    """
    mask = collaborative(update, mastered)
    param.sub_(update.mul_(mask), alpha=lr)
    return mask


def momentum_update_(gradient: Tensor, buffer: Tensor, momentum: float) -> Tensor:
    """Update the buffer in place, b <- momentum * b + g (no dampening, no Nesterov), and return it: u = b."""
    return buffer.mul_(momentum).add_(gradient)


def adam_moments_(gradient: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, betas: tuple[float, float]) -> None:
    """Update both moments in place: m <- beta1 * m + (1 - beta1) * g, v <- beta2 * v + (1 - beta2) * g^2.

    Args:
        gradient: the unmasked gradient fed to the moments, `[num_params]`.
        exp_avg: m, changed in place.
        exp_avg_sq: v, changed in place.
        betas: decay rates of m and v.
    """
    beta1, beta2 = betas
    exp_avg.mul_(beta1).add_(gradient, alpha=1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)


def adam_direction(
    exp_avg: Tensor, exp_avg_sq: Tensor, step: int, betas: tuple[float, float], eps: float, *, exact: bool = False
) -> Tensor:
    """Return u = m_hat / (sqrt(v_hat) + eps), a new tensor `[num_params]`.

    Args:
        exp_avg: m, this step's gradient included.
        exp_avg_sq: v, likewise.
        step: t, the number of updates including this one, >= 1.
        betas: decay rates of m and v.
        eps: added outside the root.
        exact: as the compiled step rounds (fused.cpp): the root correctly, where torch's own may be off by one in the
            last bit on CPUs, and products with 1 / (1 - beta**t) instead of quotients, a third of its time.
    """
    beta1, beta2 = betas
    bias1, bias2 = 1 - beta1**step, 1 - beta2**step
    if not exact:
        return exp_avg.div(bias1).div_(exp_avg_sq.div(bias2).sqrt_().add_(eps))
    corrected = exp_avg_sq.mul(1 / bias2)
    root = corrected.double().sqrt_().to(corrected.dtype) if corrected.device.type == "cpu" else corrected.sqrt_()
    return exp_avg.mul(1 / bias1).div_(root.add_(eps))
