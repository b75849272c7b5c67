"""Runs of optimizer steps over numbers of all sizes, and everything that they leave."""

import shutil
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from cpl_ray import fused, vectors
from cpl_ray.layout import whole_layout
from cpl_ray.methods.base import Method
from cpl_ray.optimizer import CPLOptimizer, Mode

# the eager path, which is the definition, is tested everywhere; docs/testing.md says why these may be skipped
COMPILERS = ("c++", "g++", "clang++")
needs_compiler = pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="needs a C++ compiler")
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd"},
    "momentum": {"name": "sgd", "momentum": 0.9},
    "adam": {"name": "adam"},
    "adamw": {"name": "adamw"},
}


@dataclass
class Trace:
    """Everything that a run of steps leaves."""

    theta: Tensor
    state: dict[str, Tensor]
    kept: dict[str, Tensor]
    counts: list[dict[str, float]]

    def equals(self, other: "Trace") -> bool:
        """Tell whether every bit and count is the same."""
        mine, others = ({"theta": t.theta, **t.state, **t.kept} for t in (self, other))
        return (
            mine.keys() == others.keys()
            and all(torch.equal(mine[key], others[key]) for key in mine)
            and self.counts == other.counts
        )


def values(numel: int, generator: torch.Generator) -> Tensor:
    """Return numbers of very different sizes, a tenth of them zero."""
    sizes = torch.exp(3 * torch.randn(numel, generator=generator) - 6)
    drawn = torch.randn(numel, generator=generator) * sizes
    return drawn * (torch.rand(numel, generator=generator) > 0.1)


def train(
    numel: int,
    compile: fused.Compile,
    *,
    offset: int = 0,
    steps: int = 3,
    method: Method | None = None,
    captures: int | None = None,
    **options: Any,
) -> Trace:
    """Capture, then update, `steps` times, on views that start `offset` elements into their memory.

    Args:
        numel: elements.
        compile: as for the optimizer.
        offset: elements.
        steps: updates.
        method: as for the optimizer.
        captures: before each update; None: one, unless the method keeps nothing. Every other update is of a gradient
            that conflicts with the last one captured.
        options: for the optimizer.
    """
    generator = torch.Generator().manual_seed(numel)
    memory = torch.cat([torch.ones(offset), values(numel, generator), torch.ones(1)])
    param = torch.nn.Parameter(memory[offset : offset + numel])
    optimizer = CPLOptimizer([param], lr=1e-3, method=method, compile=compile, **options)
    optimizer.init_state()
    if optimizer.method.needs_layout:
        optimizer.method.bind(whole_layout([("w", param)], optimizer.flat_params))
    optimizer.mark_flips = True
    captures = (0 if type(optimizer.method) is Method else 1) if captures is None else captures
    counts, mastered = [], torch.zeros(numel)
    for step in range(steps):
        for mode in (*[Mode.CAPTURE] * captures, Mode.UPDATE):
            gradient = values(numel, generator)
            if mode is Mode.UPDATE and step % 2:
                gradient -= mastered
            mastered = gradient
            param.grad = torch.cat([torch.zeros(offset), gradient])[offset:]
            optimizer.start(mode)
            optimizer.step()
        counts.append(optimizer.stats.to_dict())
    assert bool((torch.cat([memory[:offset], memory[-1:]]) == 1).all())
    return Trace(param.detach().clone(), dict(optimizer.state[param]), optimizer.mastered_tensors(), counts)


def without_kernel(*args: Any, **options: Any) -> Trace:
    """Train by the eager path, as on a machine without a compiler."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (fused, vectors):
            patch.setattr(module, "kernel", lambda *_: None)
        return train(*args, **options)
