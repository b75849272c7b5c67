"""The masked optimizer step against torch's own steps, on one flat float32 partition and one thread."""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.measure import Timing, compare
from cpl_ray.optimizer import CPLOptimizer, Mode

NUM_PARAMS = 5_000_000


def run(rounds: int) -> list[Timing]:
    """Compare torch AdamW (for-loop and fused), our plain step, our masked step and the capture."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(NUM_PARAMS, generator=generator)

    def parameter() -> torch.nn.Parameter:
        param = torch.nn.Parameter(torch.randn(NUM_PARAMS, generator=generator))
        param.grad = gradient.clone()
        return param

    def torch_step(**options: Any) -> Callable[[], object]:
        return torch.optim.AdamW([parameter()], lr=1e-4, weight_decay=0.01, **options).step

    ours = CPLOptimizer([parameter()], lr=1e-4, weight_decay=0.01)
    ours.start(Mode.CAPTURE)
    ours.step()

    def own_step(mode: Mode) -> Callable[[], object]:
        def step() -> None:
            ours.start(mode)
            ours.step()

        return step

    return compare(
        {
            "torch AdamW, fused": torch_step(fused=True),
            "torch AdamW": torch_step(foreach=False),
            "ours, plain": own_step(Mode.PLAIN),
            "ours, masked with statistics": own_step(Mode.UPDATE),
            "ours, capture": own_step(Mode.CAPTURE),
        },
        rounds=rounds,
    )
