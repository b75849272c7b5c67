"""The seam into DeepSpeed: the only module that imports it.

The optimizer is the hook (optimizer.py): capturing g_M is an ordinary `step()` whose optimizer moves nothing, which
also resets all of ZeRO's accumulation state. Accumulation is ours (`managed_gradient_accumulation: false`): any number
of `backward()` calls, then one `step()`, so that mastered and injection passes may differ in length.
"""

import contextlib
import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deepspeed
import deepspeed.ops
import torch
from torch import Tensor, nn

from cpl_ray.config import Config
from cpl_ray.errors import ConfigError, NonFiniteError
from cpl_ray.layout import Layout
from cpl_ray.methods.build import build_method
from cpl_ray.optimizer import CPLOptimizer, Mode
from cpl_ray.wrapped import WrappedOptimizer, load_optimizer_class
from cpl_ray.zero_layout import read_layout
from cpl_ray.zero_masters import masters, publish

TAG = "zero"
OURS = {
    "optimizer": "set optimizer.*",
    "scheduler": "set train.schedule",
    "fp16": "set train.dtype to float32 or bfloat16; the rule keeps float32 masters",
    "gradient_accumulation_steps": "set train.gradient_accumulation_steps",
    "train_batch_size": "set train.micro_batch_size",
    "train_micro_batch_size_per_gpu": "set train.micro_batch_size",
    "managed_gradient_accumulation": "the training loop owns the accumulation",
    "gradient_clipping": "set train.max_grad_norm",
}
WHOLE_SUB_GROUP = 1 << 62  # elements: a dot product over all parameters needs them in one sub-group, in one step
log = logging.getLogger(__name__)


def derive_deepspeed_config(config: Config) -> dict[str, Any]:
    """Derive the DeepSpeed dictionary from the configuration; the user's `deepspeed:` section is merged over it.

    Raises:
        ConfigError: the user's section sets what this project must own, or what breaks the rule.
    """
    stage = config.running_zero_stage
    zero: dict[str, Any] = {"stage": stage, "round_robin_gradients": False, "overlap_comm": False}
    if not config.cluster.use_gpu:
        zero |= {"reduce_bucket_size": 1 << 22, "allgather_bucket_size": 1 << 22}
    if config.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": config.cluster.use_gpu}
    whole = stage == 3 and build_method(config).whole
    if whole:
        zero["sub_group_size"] = WHOLE_SUB_GROUP
    if stage == 3:
        # its replacement of F.linear changes gradients in bf16, for the whole process
        zero |= {"memory_efficient_linear": False, "stage3_gather_16bit_weights_on_model_save": True}
    derived: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": config.train.micro_batch_size,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": 0.0 if stage == 0 else (config.train.max_grad_norm or 0.0),
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "checkpoint": {"tag_validation": "Ignore"},
        "steps_per_print": 1 << 40,
    }
    if config.train.dtype == "bfloat16":
        derived |= {
            "bf16": {"enabled": True},
            "data_types": {"grad_accum_dtype": "fp32"},
            "communication_data_type": "fp32",
        }
    for key in config.deepspeed:
        if key in OURS:
            raise ConfigError(f"deepspeed.{key} cannot be set there: {OURS[key]}")
        if isinstance(derived.get(key), dict) and not isinstance(config.deepspeed[key], dict):
            raise ConfigError(f"deepspeed.{key} must be a section of settings; got {config.deepspeed[key]!r}")
    merged = _merge(derived, config.deepspeed)
    if merged["zero_optimization"]["round_robin_gradients"]:
        raise ConfigError("deepspeed.zero_optimization.round_robin_gradients=true is refused: it breaks the layout")
    asked = merged["zero_optimization"].get("sub_group_size", WHOLE_SUB_GROUP)
    if whole and asked < WHOLE_SUB_GROUP:
        raise ConfigError(
            f"deepspeed.zero_optimization.sub_group_size={asked} is refused with train.rule={config.train.rule} in "
            "stage 3: its dot products need all parameters in one sub-group; leave the key out"
        )
    if merged["zero_optimization"]["stage"] != stage:
        raise ConfigError("deepspeed.zero_optimization.stage cannot be set there: set zero_stage")
    return merged


def build_optimizer(config: Config, model: nn.Module) -> CPLOptimizer:
    """Build the optimizer of `optimizer.*` over all trainable parameters, in one group, decay on every parameter."""
    settings, train = config.optimizer, config.train
    params = [p for p in model.parameters() if p.requires_grad]
    if not params:
        raise ConfigError(f"model {config.model} has no trainable parameter")
    shared: dict[str, Any] = {
        "lr": settings.lr,
        "weight_decay": settings.weight_decay,
        "method": build_method(config),
        "whole_gradients": config.running_zero_stage == 0,
        "max_grad_norm": train.max_grad_norm,
    }
    if "." in settings.name:
        return WrappedOptimizer(params, load_optimizer_class(settings.name), options=settings.options, **shared)
    return CPLOptimizer(
        params,
        name=settings.name,
        betas=settings.betas,
        eps=settings.eps,
        momentum=settings.momentum,
        compile=settings.compile,
        **shared,
    )


class ZeroEngine:
    """A DeepSpeed engine that can capture a mastered gradient and apply a masked update.

    Args:
        model: the whole model on every rank; parameters are partitioned here as the stage says.
        config: the run's configuration.

    The process group must exist and `LOCAL_RANK` must be set.
    """

    def __init__(self, model: nn.Module, config: Config) -> None:
        self.config = derive_deepspeed_config(config)
        self.stage = config.running_zero_stage
        self.num_params = sum(p.numel() for p in model.parameters() if p.requires_grad)
        self.optimizer = build_optimizer(config, model)
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        if not config.cluster.use_gpu:
            # else compiled at start, which needs a compiler and minutes; training never uses it
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        self.replicas = torch.distributed.get_world_size() if self.stage == 0 else 1
        self._engine, *_ = deepspeed.initialize(model=model, optimizer=self.optimizer, config=self.config)
        self.optimizer.init_state()
        if self.stage > 0 and self.replicas == 1 and torch.distributed.get_world_size() > 1:
            self.optimizer.sum_over_partitions = self._sum_over_partitions

    @property
    def module(self) -> nn.Module:
        """The model; under ZeRO 3 every rank must run the same number of forward passes through it."""
        return self._engine.module

    @property
    def device(self) -> torch.device:
        """Where batches go."""
        return self._engine.device

    def forward(self, **inputs: Tensor | bool) -> Any:
        """Run the model for a training pass."""
        return self._engine(**inputs)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of a loss; the ranks' gradients are averaged later, not summed."""
        self._engine.backward(loss)

    def set_lr(self, lr: float) -> None:
        """Set the rate of the next update in all groups."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def capture(self) -> float:
        """Take the accumulated gradient as g_M; nothing moves, no counter advances. Returns its norm.

        Raises:
            NonFiniteError: it is NaN or infinite on some rank; raised on every rank.
        """
        clipped = contextlib.nullcontext() if self.optimizer.method.clips_mastered else self._unclipped()
        with self._not_counted(), clipped:
            return self._step(Mode.CAPTURE, "mastered")

    def update(self) -> float:
        """Apply the accumulated injection gradient as the method says. Returns its norm before clipping.

        Raises:
            NonFiniteError: it is NaN or infinite on some rank; raised on every rank before anything moved.
        """
        return self._step(Mode.UPDATE, "injection")

    def masters(self) -> list[Tensor]:
        """Return this rank's flat float32 masters; `publish` after changing them in place."""
        return masters(self._engine.optimizer, self.stage, self.optimizer.flat_params)

    def publish(self) -> None:
        """Bring the model's parameters up to the masters; all ranks call."""
        publish(self._engine.optimizer, self.stage)

    def layout(self) -> Layout:
        """Return which elements of which parameter lie where in this rank's `optimizer.flat_params`.

        Raises:
            LayoutError: DeepSpeed's internals are not as expected.
        """
        return read_layout(self._engine.module, self._engine.optimizer, self.stage, self.optimizer.flat_params)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the whole model's weights in the compute type; all ranks must call, rank 0 gets them."""
        if self.stage == 3:
            return self._engine._zero3_consolidated_16bit_state_dict() or {}
        return self._engine.module.state_dict()

    def save(self, folder: Path) -> None:
        """Write this rank's shards of weights, masters and moments below a folder all ranks share."""
        self._engine.save_checkpoint(str(folder), tag=TAG, save_latest=False)

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, same stage and world size. The files are pickles: verify their digests first."""
        self._engine.load_checkpoint(str(folder), tag=TAG)

    def close(self) -> None:
        """Release hooks and buffers."""
        self._engine.destroy()

    def _step(self, mode: Mode, what: str) -> float:
        self.optimizer.start(mode)
        try:
            self._engine.step()
        finally:
            self.optimizer.mode = Mode.IDLE
        if not self._engine.was_step_applied():
            raise NonFiniteError(f"the {what} gradient is not finite; no parameter was moved")
        norm = self.optimizer.gradient_norm
        if norm is None:
            norm = float(self._engine.get_global_grad_norm())
        if not math.isfinite(norm):
            raise NonFiniteError(f"the norm of the {what} gradient is {norm}")
        return norm

    def _sum_over_partitions(self, tensor: Tensor) -> Tensor:
        total = tensor.to(self.device)  # offloaded partitions lie where NCCL cannot reduce
        torch.distributed.all_reduce(total)
        return total.to(tensor.device)

    @contextlib.contextmanager
    def _not_counted(self) -> Iterator[None]:
        """Keep DeepSpeed's counters at updates: a capture is not a training step."""
        names = ("global_steps", "global_samples", "skipped_steps")
        before = {name: getattr(self._engine, name) for name in names}
        yield
        for name, value in before.items():
            setattr(self._engine, name, value)

    @contextlib.contextmanager
    def _unclipped(self) -> Iterator[None]:
        """Switch clipping off: g_M is wanted as it is (ZeRO's wrappers read `clip_grad` at each step)."""
        wrapper = self._engine.optimizer
        if wrapper is self.optimizer:
            yield
            return
        before = wrapper.clip_grad
        wrapper.clip_grad = 0.0
        try:
            yield
        finally:
            wrapper.clip_grad = before


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with `over` merged in, section by section."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
