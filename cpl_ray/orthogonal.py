"""A linear layer that moves only in the orthogonal complement of its leading singular directions.

    W = W0 + (I - U_k U_k') D (I - V_k V_k'),    W0 = U S V',    D trainable, zero at first

Orthogonal subspace fine-tuning after Nayak et al. 2025 ("Sculpting Subspaces", arXiv 2504.07097): there the gradients
are projected; here the projection is part of the layer, so it holds for whatever the optimizer does to D, and autograd
yields the doubly projected gradient (I - U_k U_k') dL/dW (I - V_k V_k').
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def num_frozen(shape: torch.Size | tuple[int, ...], frozen_share: float) -> int:
    """Return k, how many leading singular directions of a matrix stay fixed: the share rounded down.

    Args:
        shape: of the matrix.
        frozen_share: share of its min(shape) directions, in [0, 1).
    """
    return math.floor(frozen_share * min(shape) + 1e-9)  # 0.29 * 100 is 28.999999999999996


class OrthogonalLinear(nn.Module):
    """Takes the place of an `nn.Linear`; only `delta` is trainable.

    Of each side the narrower basis is kept, that of the k fixed directions or, where it is known, that of the others.

    Args:
        linear: gives weight W0 `[out, in]` and bias, which are frozen in place.
        frozen_share: share of the singular directions that stays fixed, in [0, 1).
        device: where the singular value decomposition (float32, or float64 for float64 weights) is made.
    """

    delta: nn.Parameter
    """D, `[out, in]`; what of it lies in the fixed directions has no effect."""
    left: nn.Parameter | None
    """Orthonormal columns `[out, c]`; None with k = 0."""
    right: nn.Parameter | None
    """Orthonormal columns `[in, c]`; None with k = 0."""

    def __init__(self, linear: nn.Linear, frozen_share: float, device: str | torch.device = "cpu") -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight
        self.weight, self.bias = weight.requires_grad_(False), linear.bias
        if self.bias is not None:
            self.bias.requires_grad_(False)
        self.delta = nn.Parameter(torch.zeros_like(weight))
        self.num_frozen = num_frozen(weight.shape, frozen_share)
        self.left_free, self.right_free = (2 * self.num_frozen > size == min(weight.shape) for size in weight.shape)
        if self.num_frozen == 0:
            self.left = self.right = None
            return
        exact = weight.detach().to(device, torch.promote_types(weight.dtype, torch.float32))
        u, _, vh = torch.linalg.svd(exact, full_matrices=False)
        self.left = self._basis(u, self.left_free)
        self.right = self._basis(vh.T, self.right_free)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x W' + b` for `x` `[..., in]`; W itself, `[out, in]`, is never formed."""
        change = F.linear(_project(x, self.right, self.right_free), self.delta)
        return F.linear(x, self.weight, self.bias) + _project(change, self.left, self.left_free)

    def merged(self, weight: Tensor, delta: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
        """Return W `[out, in]` in the type of `weight`, computed in float32 or wider and rounded once.

        The tensors are given, since ZeRO 3 leaves the module's own empty.
        """
        wide = torch.promote_types(weight.dtype, torch.float32)
        bases = [None if basis is None else basis.to(wide) for basis in (left, right)]
        change = _project(delta.to(wide), bases[1], self.right_free)
        change = _project(change.T, bases[0], self.left_free).T
        return (weight.to(wide) + change).to(weight.dtype).contiguous()

    def extra_repr(self) -> str:
        """Say the sizes in a printed model."""
        return f"in_features={self.in_features}, out_features={self.out_features}, num_frozen={self.num_frozen}"

    def _basis(self, directions: Tensor, free: bool) -> nn.Parameter:
        part = directions[:, self.num_frozen :] if free else directions[:, : self.num_frozen]
        return nn.Parameter(part.to(self.weight.device, self.weight.dtype).contiguous(), requires_grad=False)


def _project(x: Tensor, basis: Tensor | None, free: bool) -> Tensor:
    """Take out of the last dimension what lies in the fixed directions.

    Args:
        x: `[..., size]`.
        basis: orthonormal columns `[size, c]`; None: nothing is fixed.
        free: True: they span what is free; False: what is fixed.
    """
    if basis is None:
        return x
    inside = (x @ basis) @ basis.T
    return inside if free else x - inside
