"""Ways to ask a method of the optimizer what it feeds, and the nearest gradient without conflict, by brute force."""

from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cpl_ray.layout import whole_layout
from cpl_ray.methods.base import Method
from cpl_ray.optimizer import CPLOptimizer, Mode


def fed(
    method: Method, mastered: list[Tensor], injection: Tensor, *, sizes: list[int] | None = None, **options: Any
) -> Tensor:
    """Return what the moments are fed: the first step of SGD at rate 1 from zero, the vector cut as `sizes`."""
    sizes = sizes or [len(injection)]
    params = [torch.nn.Parameter(torch.zeros(size, dtype=injection.dtype)) for size in sizes]
    optimizer = CPLOptimizer(params, name="sgd", lr=1.0, method=method, whole_gradients=True, **options)
    optimizer.init_state()
    if method.needs_layout:
        method.bind(whole_layout([(str(i), p) for i, p in enumerate(params)], optimizer.flat_params))
    for gradient, mode in [*((g, Mode.CAPTURE) for g in mastered), (injection, Mode.UPDATE)]:
        for param, part in zip(params, gradient.split(sizes), strict=True):
            param.grad = part.clone()
        optimizer.start(mode)
        optimizer.step()
    return -torch.cat([p.detach() for p in params])


def nearest_in_cone(gradient: np.ndarray, constraints: np.ndarray) -> np.ndarray:
    """Return the z nearest to g with Gz >= 0: the best feasible projection over all sets of active constraints."""
    best, distance = np.zeros_like(gradient), float(gradient @ gradient)
    scale = np.linalg.norm(constraints, axis=1) * np.linalg.norm(gradient)
    for count in range(len(constraints) + 1):
        for active in combinations(range(len(constraints)), count):
            rows = constraints[list(active)]
            z = gradient - np.linalg.pinv(rows, rcond=1e-9) @ (rows @ gradient) if count else gradient
            if ((constraints @ z) >= -1e-9 * scale).all() and float((z - gradient) @ (z - gradient)) < distance:
                best, distance = z, float((z - gradient) @ (z - gradient))
    return best
