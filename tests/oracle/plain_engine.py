"""An engine of plain torch: the loop's parity baseline, in any dtype, one process or a process group."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cpl_ray.config import Config
from cpl_ray.layout import Layout, whole_layout
from cpl_ray.methods.build import build_method
from cpl_ray.optimizer import CPLOptimizer, Mode


class PlainEngine:
    """Whole parameters on every rank; gradients accumulate in `p.grad` and are averaged over ranks at the step."""

    def __init__(self, model: nn.Module, config: Config) -> None:
        settings, train = config.optimizer, config.train
        self.module = model
        self._params = [p for p in model.parameters() if p.requires_grad]
        self.num_params = sum(p.numel() for p in self._params)
        self.replicas = dist.get_world_size() if dist.is_initialized() else 1
        self.device = torch.device("cpu")
        self.optimizer = CPLOptimizer(
            self._params,
            name=settings.name,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            betas=settings.betas,
            eps=settings.eps,
            momentum=settings.momentum,
            method=build_method(config),
            whole_gradients=True,
            max_grad_norm=train.max_grad_norm,
        )
        self.optimizer.init_state()

    def forward(self, **inputs: Tensor | bool) -> Any:
        return self.module(**inputs)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def capture(self) -> float:
        return self._step(Mode.CAPTURE)

    def update(self) -> float:
        return self._step(Mode.UPDATE)

    def masters(self) -> list[Tensor]:
        return self.optimizer.flat_params

    def publish(self) -> None:
        """The parameters are the masters."""

    def layout(self) -> Layout:
        return whole_layout(self.module.named_parameters(), self.optimizer.flat_params)

    def save(self, folder: Path) -> None:
        raise AssertionError("the plain engine is for short runs without checkpoints")

    def load(self, folder: Path) -> None:
        raise AssertionError("the plain engine is for short runs without checkpoints")

    def _step(self, mode: Mode) -> float:
        if self.replicas > 1:
            for p in self._params:
                assert p.grad is not None
                dist.all_reduce(p.grad)
                p.grad.div_(self.replicas)
        self.optimizer.start(mode)
        self.optimizer.step()
        self.optimizer.zero_grad()
        assert self.optimizer.gradient_norm is not None
        return self.optimizer.gradient_norm
