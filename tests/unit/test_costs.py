"""What a training cost: bytes of optimizer state counted from its tensors, seconds from the log."""

import pytest
import torch

from cpl_ray.costs import training_costs
from cpl_ray.mastered import FullState, SignState
from cpl_ray.methods.base import Method
from cpl_ray.methods.collaborative import Collaborative
from cpl_ray.metrics_log import Record
from cpl_ray.optimizer import CPLOptimizer, Mode
from cpl_ray.state_bytes import state_bytes

SHAPES = [(7, 3), (5,)]
NUM = 26
PLANES = 3 * 8 * len(SHAPES)  # a word of each for each tensor
COUNTERS = 4 * len(SHAPES)  # one float32 step for each tensor


@pytest.mark.parametrize(
    ("method", "name", "momentum", "expected"),
    [
        (Method(), "adamw", 0.0, 8 * NUM),
        (Method(), "sgd", 0.0, 0),
        (Method(), "sgd", 0.9, 4 * NUM),
        (Collaborative(SignState), "adamw", 0.0, 8 * NUM + PLANES),
        (Collaborative(FullState), "sgd", 0.9, 8 * NUM + PLANES),
    ],
)
def test_bytes_of_moments_and_of_what_the_method_keeps(
    method: Method, name: str, momentum: float, expected: int
) -> None:
    params = [torch.nn.Parameter(torch.ones(shape)) for shape in SHAPES]
    optimizer = CPLOptimizer(params, name=name, momentum=momentum, method=method)
    modes = (Mode.UPDATE,) if type(method) is Method else (Mode.CAPTURE, Mode.UPDATE)
    for mode in modes:
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.start(mode)
        optimizer.step()
    assert state_bytes(optimizer) == expected + COUNTERS


def test_the_median_update_and_the_largest_peak() -> None:
    def update(step: int, **values: float) -> Record:
        return Record("train", step, 0.0, values)

    log = [update(1, seconds=9.0, memory_bytes=5.0), update(2, seconds=1.0, memory_bytes=8.0), update(3, seconds=2.0)]
    assert training_costs(log) == {"seconds_per_update": 2.0, "peak_memory_bytes": 8.0}
    # of a run of an earlier version nothing is known
    assert training_costs([update(1, lr=1.0)]) == {"seconds_per_update": None, "peak_memory_bytes": None}
