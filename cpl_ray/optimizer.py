"""The CPL optimizer: SGD, momentum, Adam and AdamW whose update moves collaborative parameters only.

It is a plain `torch.optim.Optimizer` and knows nothing of DeepSpeed. ZeRO hands it the flat fp32 partition with the
reduced, averaged, clipped gradient in every stage, so the elementwise rule needs no communication of its own. A mode
tells what a `step()` means; it starts idle, because ZeRO calls `step()` with zero gradients while it sets itself up.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from cpl_ray.errors import NonFiniteError
from cpl_ray.mastered import MASTERED_STATES, SignState
from cpl_ray.rule import adam_update_, collaborative, contribution, momentum_update_

CHUNK = 1 << 18  # elements per pass: bounds scratch memory and keeps one chunk in cache


class Mode(Enum):
    """What the next `step()` does with the gradients it finds."""

    IDLE = "idle"
    """Create optimizer state, move nothing."""
    CAPTURE = "capture"
    """Take the gradients as g_M, move nothing."""
    UPDATE = "update"
    """Move collaborative parameters."""
    PLAIN = "plain"
    """Move all parameters (plain fine-tuning)."""


@dataclass
class UpdateStats:
    """Counts over this rank's elements for one update; padding is included and lands in `zero`."""

    total: int = 0
    counts: dict[str, Tensor] = field(default_factory=dict)

    def add(self, **values: Tensor) -> None:
        """Add scalar tensors by name, e.g. `conflict`, `zero`, `flips`, `moved`, `moved_against`."""
        for name, value in values.items():
            value = value.double()
            self.counts[name] = self.counts[name] + value if name in self.counts else value

    def to_dict(self) -> dict[str, float]:
        """Return all counts as Python numbers (one device synchronisation)."""
        return {"total": float(self.total), **{name: float(value) for name, value in self.counts.items()}}


class CPLOptimizer(torch.optim.Optimizer):
    """SGD, Adam and AdamW with the collaborative mask (ALGORITHM: theta_j <- theta_j - lr * u_j * 1[u_j * g_M,j >= 0]).

    Moments are always fed the unmasked gradient; the mask is on the update, weight decay included. For `sgd` and `adam`
    the decay is torch's coupled form, for `adamw` the decoupled one, formed completely before the one subtraction.

    Args:
        params: parameters or parameter groups (`lr` and `weight_decay` may differ by group).
        name: `sgd`, `adam` or `adamw`.
        lr: learning rate.
        weight_decay: decay of every parameter of a group.
        betas: Adam's decay rates.
        eps: added outside the root.
        momentum: for `sgd`, without dampening.
        mask_on: `update`, or `gradient` for the ablation that masks before the moments.
        mastered_state: `sign` (int8) or `full` (all of g_M).
        whole_gradients: this rank sees whole gradients in one step (ZeRO stage 0, plain torch): measure their norm,
            refuse non-finite ones and clip here. With partitions ZeRO does these three itself, over all ranks.
        max_grad_norm: clip the unmasked gradient to this norm. No effect unless `whole_gradients`.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        name: str = "adamw",
        lr: float = 1e-5,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        momentum: float = 0.0,
        mask_on: str = "update",
        mastered_state: str = "sign",
        whole_gradients: bool = False,
        max_grad_norm: float | None = None,
    ) -> None:
        if name not in ("sgd", "adam", "adamw"):
            raise ValueError(f"optimizer {name!r} is not one of sgd, adam, adamw")
        defaults = {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps, "momentum": momentum}
        super().__init__(params, defaults)
        self.name = name
        self.mask_on = mask_on
        self.whole_gradients = whole_gradients
        self.max_grad_norm = max_grad_norm
        self.mode = Mode.IDLE
        self.stats = UpdateStats()
        self.gradient_norm: float | None = None
        self.mark_flips = False  # whether the next mask marks the elements whose class it changes
        self._restored: dict[str, Tensor] = {}  # from a checkpoint, for parameters not seen yet
        self._new_mastered = MASTERED_STATES[mastered_state]
        self._mastered: dict[Tensor, SignState | None] = {}  # in order of first sight, the same in every run

    def init_state(self) -> None:
        """Create the state of all parameters now. ZeRO 1 and 2 link only the state that exists at their first step."""
        for group in self.param_groups:
            for param in group["params"]:
                self._init_param(param, group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Do what `mode` says with the gradients present. Closures are not supported."""
        if closure is not None:
            raise ValueError("CPLOptimizer.step takes no closure")
        pairs = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        for param, group in pairs:
            self._init_param(param, group)
        if self.mode is Mode.IDLE:
            return
        scale = self._clip_scale([param.grad for param, _ in pairs])
        for param, group in pairs:
            if self.mode is Mode.CAPTURE:
                self._mastered_of(param).capture(param.grad.reshape(-1))
            else:
                self.stats.total += param.numel()
                self._apply(param, group, scale)

    def start(self, mode: Mode) -> None:
        """Set the mode of the next step and clear its statistics."""
        self.mode = mode
        self.stats = UpdateStats()
        self.gradient_norm = None

    @property
    def has_mastered(self) -> bool:
        """Whether a mastered gradient has been captured for every parameter seen so far."""
        states = self._mastered.values()
        return bool(self._restored) or (bool(states) and all(state is not None and state.captured for state in states))

    @property
    def flat_params(self) -> list[Tensor]:
        """The tensors this optimizer was given, in the order of their first sight: parameters or ZeRO's partitions."""
        return list(self._mastered)

    @property
    def mastered_states(self) -> list[SignState | None]:
        """What is kept of g_M for each of `flat_params`; None for one that never had a gradient to capture or mask."""
        return list(self._mastered.values())

    def mastered_tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint must hold of the mastered state: `INDEX.code`, `INDEX.gradient`."""
        states = [(i, state) for i, state in enumerate(self._mastered.values()) if state is not None]
        return {f"{index}.{key}": tensor for index, state in states for key, tensor in state.tensors().items()}

    def load_mastered_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore `mastered_tensors()` of the same partition.

        Parameters not seen yet (ZeRO 3 shows them at the first step) get theirs when they are.

        Raises:
            ValueError: the sizes are not those of this partition; for parameters not seen yet at the first step.
        """
        self._restored = dict(tensors)
        for index, param in enumerate(self._mastered):
            self._restore(index, param)

    def _restore(self, index: int, param: Tensor) -> None:
        prefix = f"{index}."
        saved = {
            key.removeprefix(prefix): self._restored.pop(key) for key in list(self._restored) if key.startswith(prefix)
        }
        if not saved:
            return
        state = self._mastered_of(param)
        own = state.tensors()
        if {key: tensor.shape for key, tensor in own.items()} != {key: tensor.shape for key, tensor in saved.items()}:
            raise ValueError(
                f"mastered state of another partition: {saved.keys()} does not fit {param.numel()} elements"
            )
        for key, tensor in own.items():
            tensor.copy_(saved[key])
        state.captured = state.classified = True

    def _mastered_of(self, param: Tensor) -> SignState:
        """Return the mastered state of a parameter, made at its first use: plain fine-tuning pays no memory for it."""
        state = self._mastered[param]
        if state is None:
            state = self._mastered[param] = self._new_mastered(param)
        return state

    def _init_param(self, param: Tensor, group: dict[str, Any]) -> None:
        if param not in self._mastered:
            self._mastered[param] = None
            self._restore(len(self._mastered) - 1, param)
        if not self.state[param]:
            self._init_moments(param, group)

    def _init_moments(self, param: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        state["step"] = torch.zeros((), dtype=torch.float32)
        # ZeRO's universal checkpoints carry exactly these names, so momentum is kept as exp_avg too
        if self.name != "sgd" or group["momentum"] > 0:
            state["exp_avg"] = torch.zeros_like(param, memory_format=torch.contiguous_format)
        if self.name != "sgd":
            state["exp_avg_sq"] = torch.zeros_like(param, memory_format=torch.contiguous_format)

    def _clip_scale(self, gradients: list[Tensor]) -> float:
        """Measure and check whole gradients; return the factor that clips them.

        Raises:
            NonFiniteError: the norm is NaN or infinite; nothing has moved.
        """
        if not self.whole_gradients:
            return 1.0
        norm = float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g.double()) for g in gradients])))
        self.gradient_norm = norm
        if norm != norm or norm == float("inf"):
            raise NonFiniteError(f"the gradient's norm is {norm}; no parameter was moved")
        if self.mode is Mode.CAPTURE or self.max_grad_norm is None:
            return 1.0
        return min(1.0, self.max_grad_norm / (norm + 1e-6))

    def _apply(self, param: Tensor, group: dict[str, Any], scale: float) -> None:
        """Update one flat parameter chunk by chunk."""
        state = self.state[param]
        state["step"] += 1
        step = int(state["step"])
        mastered = self._mastered_of(param) if self.mode is Mode.UPDATE else None
        assert param.grad is not None
        theta, gradient = param.view(-1), param.grad.reshape(-1)
        moments = [state[key].view(-1) for key in ("exp_avg", "exp_avg_sq") if key in state]
        for start in range(0, theta.numel(), CHUNK):
            part = slice(start, min(start + CHUNK, theta.numel()))
            before = theta[part].clone()
            fed = gradient[part] * scale if scale != 1.0 else gradient[part]
            if mastered is not None and self.mask_on == "gradient":
                fed = self._mask(fed, mastered, part, group["lr"])
            update = self._direction(theta[part], fed, [m[part] for m in moments], step, group)
            if mastered is not None and self.mask_on == "update":
                update = self._mask(update, mastered, part, group["lr"])
            theta[part].sub_(update, alpha=group["lr"])
            self._count_moves(before.sub_(theta[part]), mastered, part)
        if mastered is not None:
            mastered.classified = True

    def _direction(
        self, theta: Tensor, gradient: Tensor, moments: list[Tensor], step: int, group: dict[str, Any]
    ) -> Tensor:
        """Return u, decay included; moments change in place, theta and gradient do not."""
        decay = group["weight_decay"]
        if decay and self.name != "adamw":
            gradient = gradient.add(theta, alpha=decay)
        if self.name == "sgd":
            return momentum_update_(gradient, moments[0], group["momentum"]) if moments else gradient
        update = adam_update_(gradient, moments[0], moments[1], step, group["betas"], group["eps"])
        return update.add_(theta, alpha=decay) if decay and self.name == "adamw" else update

    def _mask(self, update: Tensor, mastered: SignState, part: slice, lr: float) -> Tensor:
        """Return `update` with its conflicting entries set to zero, and count the classes."""
        sign = mastered.sign(part)
        mask = collaborative(update, sign)
        self.stats.add(conflict=(~mask).sum(), zero=((update == 0) | (sign == 0)).sum())
        values = mastered.values(part)
        if values is not None:
            s = contribution(update, values)
            self.stats.add(conflict_mass=s.clamp(max=0).sum(), predicted_change=-lr * s.clamp(min=0).sum())
        flips = mastered.classify(part, ~mask, mark_flips=self.mark_flips)
        if mastered.classified:
            self.stats.add(flips=flips, flip_of=torch.tensor(float(mask.numel())))
        return update * mask

    def _count_moves(self, moved_down: Tensor, mastered: SignState | None, part: slice) -> None:
        """Count from stored values, not from the mask: `moved_down` is theta before minus theta after."""
        self.stats.add(moved=(moved_down != 0).sum())
        if mastered is not None:
            self.stats.add(moved_against=(torch.sign(moved_down) * mastered.sign(part) < 0).sum())
