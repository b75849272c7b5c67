"""Memory of one training pass, counted operation by operation on tensors without data."""

import warnings
from collections.abc import Callable
from dataclasses import astuple, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PretrainedConfig, PreTrainedModel

from cpl_ray.config import Config
from cpl_ray.forward import accepts
from cpl_ray.live_bytes import LiveBytes
from cpl_ray.skeleton import skeleton


@dataclass(frozen=True)
class Pass:
    """The shape of one micro-batch."""

    rows: int
    length: int
    """Tokens of the longest row, to which all are padded."""
    positions: int
    """Columns at which anything is supervised: logits are made there, for all rows."""
    targets: int
    """Supervised tokens."""

    def within(self, other: "Pass") -> bool:
        """Tell whether the other is as large in every respect, so that it needs no less."""
        mine, theirs = astuple(self), astuple(other)
        return all(one <= most for one, most in zip(mine, theirs, strict=True))

    def times(self, factor: int) -> "Pass":
        """Return the shape of a micro-batch of so many times the rows."""
        return Pass(self.rows * factor, self.length, self.positions, self.targets * factor)


@dataclass(frozen=True)
class Working:
    """Peak bytes of forward and backward beyond parameters and gradients."""

    beside_gradients: int
    """Where every parameter's gradient stays, beyond their sum."""
    freed_gradients: int
    """Where each gradient is taken away as soon as it is made; the one being made is part of this."""

    def plus(self, other: "Working", factor: float) -> "Working":
        """Return `self + (other - self) * factor`: memory is linear in the number of rows."""
        return Working(
            round(self.beside_gradients + (other.beside_gradients - self.beside_gradients) * factor),
            round(self.freed_gradients + (other.freed_gradients - self.freed_gradients) * factor),
        )


def working_memory(config: Config, settings: PretrainedConfig, shape: Pass, *, checkpointing: bool) -> Working:
    """Run a training pass of this shape on fake tensors and return its peak of memory.

    Attention is that of PyTorch's fused kernels with a mask, whose saved tensors are those of the CUDA ones too.

    Args:
        config: the run.
        settings: of the model.
        shape: of the micro-batch.
        checkpointing: recompute activations in the backward pass.
    """
    model = skeleton(config, settings)
    if checkpointing:
        with warnings.catch_warnings():  # of a new name for the same in some versions of transformers
            warnings.simplefilter("ignore", FutureWarning)
            model.gradient_checkpointing_enable()
    with FakeTensorMode():
        _move_to_cpu(model)
        return _measure(model, shape)


def _move_to_cpu(model: PreTrainedModel) -> None:
    """Put tensors made in the mode at hand in the place of those on the meta device, which have no CPU kernels."""
    made: dict[int, nn.Parameter] = {}  # tied parameters stay one
    for module in model.modules():
        for name, param in module._parameters.items():
            if param is not None:
                new = nn.Parameter(torch.empty(param.shape, dtype=param.dtype), requires_grad=param.requires_grad)
                module._parameters[name] = made.setdefault(id(param), new)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.zeros(buffer.shape, dtype=buffer.dtype)


def _measure(model: PreTrainedModel, shape: Pass) -> Working:
    ids = torch.zeros(shape.rows, shape.length, dtype=torch.int64)
    # four dimensions, as transformers makes of a mask with padding; a flat one would be looked at for its values
    mask = torch.ones(shape.rows, 1, shape.length, shape.length, dtype=torch.bool)
    positions = torch.arange(shape.length - shape.positions, shape.length)
    chosen = torch.zeros(shape.targets, dtype=torch.int64)
    live = LiveBytes([*model.parameters(), *model.buffers()])
    for param in model.parameters():
        if param.requires_grad:
            param.register_post_accumulate_grad_hook(_setting_aside(live))
    with live:
        kept = {"logits_to_keep": positions} if accepts(model, "logits_to_keep") else {}
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **kept).logits
        if not kept:
            logits = logits[:, positions]
        _loss(logits, chosen).backward()
    gradients = sum(p.grad.untyped_storage().nbytes() for p in model.parameters() if p.grad is not None)
    return Working(max(0, live.peak - gradients), live.peak_without)


def _loss(logits: Tensor, chosen: Tensor) -> Tensor:
    """Compute what `loss.supervised_cross_entropy` does, by numbers instead of a mask, whose size has no value here."""
    selected = logits.reshape(-1, logits.shape[-1])[chosen]
    if selected.dtype == torch.bfloat16:
        selected = selected.float()
    return F.cross_entropy(selected, chosen, reduction="sum")


def _setting_aside(live: LiveBytes) -> Callable[[Tensor], None]:
    def hook(param: Tensor) -> None:
        assert param.grad is not None
        live.set_aside += param.grad.untyped_storage().nbytes()

    return hook
