"""The CPL optimizer: SGD, momentum, Adam and AdamW whose update moves collaborative parameters only.

Other methods than the rule take its place in the same step (methods/base.py).

It is a plain `torch.optim.Optimizer` and knows nothing of DeepSpeed. ZeRO hands it the flat fp32 partition with the
reduced, averaged, clipped gradient in every stage, so the elementwise rule needs no communication of its own. A mode
tells what a `step()` means; it starts idle, because ZeRO calls `step()` with zero gradients while it sets itself up.
"""

from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from cpl_ray import fused
from cpl_ray.errors import NonFiniteError
from cpl_ray.fused_form import Scalars
from cpl_ray.kept_states import KeptStates
from cpl_ray.mastered import CHUNK
from cpl_ray.methods.base import PLAIN, Chunk, Flat, Fusion, KeepsSign, Kept, Method, StepView, UpdateStats
from cpl_ray.methods.collaborative import Collaborative
from cpl_ray.rule import adam_direction, adam_moments_, momentum_update_


class Mode(Enum):
    """What the next `step()` does with the gradients it finds."""

    IDLE = "idle"
    """Create optimizer state, move nothing."""
    CAPTURE = "capture"
    """Take the gradients as g_M, move nothing."""
    UPDATE = "update"
    """Move parameters as the method says."""
    PLAIN = "plain"
    """Move all parameters (plain fine-tuning)."""


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
        method: how gradients become updates; None: the rule, keeping the sign of g_M.
        whole_gradients: this rank sees whole gradients in one step (ZeRO stage 0, plain torch): measure their norm,
            refuse non-finite ones and clip here. With partitions ZeRO does these three itself, over all ranks.
        max_grad_norm: clip the unmasked gradient to this norm. No effect unless `whole_gradients`.
        compile: whether steps have the form that fused.py compiles, where the method allows it: large ones, `always` or
            `never`.
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
        method: Method | None = None,
        whole_gradients: bool = False,
        max_grad_norm: float | None = None,
        compile: fused.Compile = "auto",
    ) -> None:
        if name not in ("sgd", "adam", "adamw"):
            raise ValueError(f"optimizer {name!r} is not one of sgd, adam, adamw")
        defaults = {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps, "momentum": momentum}
        super().__init__(params, defaults)
        self.name = name
        self.method = Collaborative() if method is None else method
        self.whole_gradients = whole_gradients
        self.max_grad_norm = max_grad_norm
        self.mode = Mode.IDLE
        self.stats = UpdateStats()
        self.gradient_norm: float | None = None
        self.update_index = 0  # updates done before the next one, over the whole run: the loop says it
        self.mark_flips = False  # whether the next mask marks the elements whose class it changes
        self.sum_over_partitions: Callable[[Tensor], Tensor] = lambda tensor: tensor
        """Adds a float64 tensor up over the ranks that hold the other partitions."""
        self.kept = KeptStates()
        self.compile = compile
        self.planned_updates = 0  # unknown; many pay for compiling a small step
        self._fused = False  # whether the present step has the form of the kernel

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
        method = PLAIN if self.mode is Mode.PLAIN else self.method
        numel = sum(param.numel() for param, _ in pairs)
        self._fused = fused.is_fused(self.compile, method.fusion, numel, self.planned_updates)
        scale = self._clip_scale([param.grad for param, _ in pairs])
        if self.mode is Mode.CAPTURE:
            for param, _ in pairs:
                self._capture(self.kept.of(param, method), param.grad.reshape(-1), scale)
            return
        places = self.kept.places()
        flats = [self._flat(param, group, places[param]) for param, group in pairs]
        step = StepView(self.update_index, flats, scale, self.sum_over_partitions, self.stats, self._fused)
        method.begin(step)
        for flat in flats:
            self.stats.total += flat.param.numel()
            self._apply(flat, method, step)
        if method.two_passes:
            method.between(step)
            for flat in flats:
                self._move(flat, method, step)
        method.end(step)

    def start(self, mode: Mode) -> None:
        """Set the mode of the next step and clear its statistics."""
        self.mode = mode
        self.stats = UpdateStats()
        self.gradient_norm = None

    @property
    def has_mastered(self) -> bool:
        """Whether a mastered gradient has been captured for every parameter seen so far."""
        return self.kept.captured

    @property
    def flat_params(self) -> list[Tensor]:
        """The tensors this optimizer was given, in the order of their first sight: parameters or ZeRO's partitions."""
        return self.kept.params

    @property
    def kept_states(self) -> list[Kept | None]:
        """What the method keeps for each of `flat_params`; None for one that it never had to keep anything for."""
        return self.kept.states

    def mastered_tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint must hold of the mastered state: `INDEX.planes`, `INDEX.gradient`."""
        return self.kept.tensors()

    def load_mastered_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore `mastered_tensors()` of the same partition.

        Parameters not seen yet (ZeRO 3 shows them at the first step) get theirs when they are.

        Raises:
            ValueError: the sizes are not those of this partition; for parameters not seen yet at the first step.
        """
        self.kept.load(tensors, self.method)

    def _capture(self, kept: Kept, gradient: Tensor, scale: float) -> None:
        if scale != 1.0 or not (self._fused and fused.capture(gradient, kept)):
            kept.capture(gradient * scale if scale != 1.0 else gradient)

    def _flat(self, param: Tensor, group: dict[str, Any], index: int) -> Flat:
        assert param.grad is not None
        kept = self.kept.offered(param, self.method) if self.mode is Mode.UPDATE else self.kept.found(param)
        return Flat(index, param, param.grad.reshape(-1), group, self.state[param], kept)

    def _init_param(self, param: Tensor, group: dict[str, Any]) -> None:
        self.kept.see(param, self.method)
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
        if self._fused:  # bounded scratch memory; where the sum is cut, its last bit may be another
            gradients = [piece for gradient in gradients for piece in gradient.reshape(-1).split(CHUNK)]
        norm = float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g.double()) for g in gradients])))
        self.gradient_norm = norm
        if norm != norm or norm == float("inf"):
            raise NonFiniteError(f"the gradient's norm is {norm}; no parameter was moved")
        unclipped = self.mode is Mode.CAPTURE and not self.method.clips_mastered
        if unclipped or self.max_grad_norm is None:
            return 1.0
        return min(1.0, self.max_grad_norm / (norm + 1e-6))

    def _apply(self, flat: Flat, method: Method, step: StepView) -> None:
        """Feed the moments of one flat tensor and, unless the method wants all moments first, update it."""
        flat.state["step"] += 1
        if self._fused and not method.sees_updates and self._apply_compiled(flat, method, step):
            return
        for chunk in self._chunks(flat, step):
            fed = self._fed(chunk, method)
            self._feed(chunk, fed)
            if not method.two_passes:
                self._move_chunk(chunk, method, fed)

    def _apply_compiled(self, flat: Flat, method: Method, step: StepView) -> bool:
        assert method.fusion is not None
        group, adam = flat.group, self.name != "sgd"
        scalars = Scalars(
            lr=float(group["lr"]),
            step=int(flat.state["step"]),
            scale=step.scale,
            weight_decay=group["weight_decay"],
            decoupled=self.name == "adamw",
            betas=group["betas"] if adam else (group["momentum"], 0.0),
            eps=group["eps"],
            mark_flips=self.mark_flips,
        )
        if method.fusion is not Fusion.SHAPED:
            return fused.update(flat, method.fusion, scalars, step.stats)
        chunks = self._chunks(flat, step, fused.chunk_size(flat.param.device))
        return fused.update_shaped(flat, ((c.part, self._shaped(c, method)) for c in chunks), scalars, step.stats)

    def _move(self, flat: Flat, method: Method, step: StepView) -> None:
        """Update one flat tensor whose moments are fed."""
        for chunk in self._chunks(flat, step):
            self._move_chunk(chunk, method, self._fed(chunk, method))

    def _move_chunk(self, chunk: Chunk, method: Method, fed: Tensor) -> None:
        theta = chunk.flat.param.view(-1)[chunk.part]
        before = theta.clone()
        update = method.update(self._direction(chunk, fed), chunk)
        theta.sub_(update, alpha=chunk.lr)
        self._count_moves(before.sub_(theta), chunk)

    def _chunks(self, flat: Flat, step: StepView, size: int = CHUNK) -> Iterator[Chunk]:
        theta = flat.param.view(-1)
        for start in range(0, theta.numel(), size):
            part = slice(start, min(start + size, theta.numel()))
            yield Chunk(flat, part, theta[part], step, self.mark_flips)

    def _shaped(self, chunk: Chunk, method: Method) -> Tensor:
        """Return the clipped gradient as the method has it."""
        gradient = chunk.flat.gradient[chunk.part]
        return method.gradient(gradient * chunk.step.scale if chunk.step.scale != 1.0 else gradient, chunk)

    def _fed(self, chunk: Chunk, method: Method) -> Tensor:
        """Return what the moments are fed: the gradient as the method has it, coupled decay included."""
        gradient = self._shaped(chunk, method)
        decay = chunk.flat.group["weight_decay"]
        return gradient.add(chunk.theta, alpha=decay) if decay and self.name != "adamw" else gradient

    def _feed(self, chunk: Chunk, fed: Tensor) -> None:
        group, moments = chunk.flat.group, self._moments(chunk)
        if self.name != "sgd":
            adam_moments_(fed, moments[0], moments[1], group["betas"])
        elif moments:
            momentum_update_(fed, moments[0], group["momentum"])

    def _direction(self, chunk: Chunk, fed: Tensor) -> Tensor:
        """Return u, decay included, from fed moments; nothing changes."""
        group, moments = chunk.flat.group, self._moments(chunk)
        if self.name == "sgd":
            return moments[0] if moments else fed
        exp_avg, exp_avg_sq = moments
        step = int(chunk.flat.state["step"])
        update = adam_direction(exp_avg, exp_avg_sq, step, group["betas"], group["eps"], exact=self._fused)
        decay = group["weight_decay"]
        return update.add_(chunk.theta, alpha=decay) if decay and self.name == "adamw" else update

    @staticmethod
    def _moments(chunk: Chunk) -> list[Tensor]:
        state = chunk.flat.state
        return [state[key].view(-1)[chunk.part] for key in ("exp_avg", "exp_avg_sq") if key in state]

    def _count_moves(self, moved_down: Tensor, chunk: Chunk) -> None:
        """Count from stored values, not from the mask: `moved_down` is theta before minus theta after."""
        self.stats.add(moved=moved_down.count_nonzero())
        kept = chunk.flat.kept
        if isinstance(kept, KeepsSign):
            self.stats.add(moved_against=(torch.sign(moved_down) * kept.sign(chunk.part) < 0).count_nonzero())
