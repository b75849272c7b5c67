"""The optimizer's step against torch's own fused ones: one flat float32 partition, one thread, seconds of CPU."""

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Timing, compare
from cpl_ray.fused import Compile
from cpl_ray.methods.base import Method
from cpl_ray.optimizer import CPLOptimizer, Mode

NUM_PARAMS = 20_000_000
LR, DECAY = 1e-4, 0.01
OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"momentum": 0.0, "weight_decay": 0.0}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.0}),
    "adam": (torch.optim.Adam, {"weight_decay": 0.0}),
    "adamw": (torch.optim.AdamW, {"weight_decay": DECAY}),
}


def run(rounds: int) -> list[Timing]:
    """Compare, for each optimizer, torch's fused step, ours plain and masked with all statistics, and the capture."""
    torch.set_num_threads(1)
    timings = []
    for name in OPTIMIZERS:
        timings += compare(_alternatives(name), rounds=rounds, clock=time.process_time)
    return timings


def _alternatives(name: str) -> dict[str, Callable[[], object]]:
    cls, options = OPTIMIZERS[name]
    plain = _ours(name, Mode.PLAIN, method=Method(), compile="always")
    masked = _ours(name, Mode.UPDATE, compile="always")
    found: dict[str, Callable[[], object]] = {
        f"{name}: torch, fused": cls([_parameter()], lr=LR, fused=True, **options).step,  # type: ignore[call-arg]
        f"{name}: ours, plain": plain,
        f"{name}: ours, masked with statistics": masked,
    }
    if name == "adamw":
        found |= _deepspeed() | {
            f"{name}: ours, capture": _ours(name, Mode.CAPTURE, compile="always"),
            f"{name}: ours, masked, not compiled": _ours(name, Mode.UPDATE, compile="never"),
        }
    return found


def _deepspeed() -> dict[str, Callable[[], object]]:
    """Return DeepSpeed's step for offloaded states, which it compiles at its first use (a minute), where it can."""
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    try:
        step = DeepSpeedCPUAdam([_parameter()], lr=LR, weight_decay=DECAY, adamw_mode=True).step
    except Exception as error:  # whatever a compiler, its build tool or DeepSpeed's checks of both raise
        print(f"no DeepSpeedCPUAdam here: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        return {}
    return {"adamw: DeepSpeedCPUAdam": step}


@cache
def _drawn(seed: int) -> Tensor:
    return torch.randn(NUM_PARAMS, generator=torch.Generator().manual_seed(seed))


@cache
def _parameter() -> torch.nn.Parameter:
    """Return the parameter that all alternatives step in turn: where in memory it lies makes a difference of 10 %."""
    param = torch.nn.Parameter(_drawn(0).clone())
    param.grad = _drawn(1).clone()
    return param


def _ours(name: str, mode: Mode, *, compile: Compile, method: Method | None = None) -> Callable[[], None]:
    """Return a step of `mode`; where the mask is wanted, g_M has been captured before."""
    param, options = _parameter(), OPTIMIZERS[name][1]
    kind = "sgd" if name == "momentum" else name
    optimizer = CPLOptimizer([param], name=kind, lr=LR, method=method, compile=compile, **options)

    def step(now: Mode = mode) -> None:
        optimizer.start(now)
        optimizer.step()

    if mode is not Mode.PLAIN:
        gradient = param.grad
        param.grad = _drawn(2)
        step(Mode.CAPTURE)
        param.grad = gradient
    return step
