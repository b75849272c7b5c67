"""Any other elementwise optimizer under the rule: let it step, then put back what moved against g_M.

"u is what the optimizer would apply", taken literally: u = (theta before - theta after) / lr, whatever formed it. The
price is one transient copy of each flat parameter.
"""

import importlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from cpl_ray.errors import ConfigError
from cpl_ray.methods.base import Chunk, Flat, Method, StepView
from cpl_ray.optimizer import CPLOptimizer

ELEMENTWISE = ("Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD")
REFUSED = {
    "Muon": "it needs the shapes of matrices, which a flat partition does not have",
    "Adafactor": "it factors the second moment by rows and columns",
    "LBFGS": "it needs a closure and global dot products",
    "SparseAdam": "it needs sparse gradients",
}


def load_optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """Import `module.Class` and make sure that it can be an elementwise optimizer.

    Raises:
        ConfigError: the class is missing, no torch optimizer, or known not to be elementwise.
    """
    module_name, _, class_name = name.rpartition(".")
    if class_name in REFUSED:
        raise ConfigError(
            f"optimizer.name={name} cannot be used: {REFUSED[class_name]}. "
            f"Valid are sgd, adam, adamw and elementwise optimizers such as torch.optim.{{{', '.join(ELEMENTWISE)}}}"
        )
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"optimizer.name={name} cannot be imported: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
        raise ConfigError(f"optimizer.name={name} is not a torch.optim.Optimizer")
    return cls


class WrappedOptimizer(CPLOptimizer):
    """The rule around a foreign elementwise optimizer class.

    Args:
        params: parameters or parameter groups.
        cls: the optimizer class; gets `lr`, `weight_decay` (if its constructor knows it) and `options`.
        lr: learning rate.
        weight_decay: passed on when not zero.
        options: further constructor arguments.
        method: as for `CPLOptimizer`, but none of `two_passes`: the moments are not ours.
        whole_gradients: as for `CPLOptimizer`.
        max_grad_norm: as for `CPLOptimizer`.

    Raises:
        ConfigError: the class does not take these arguments.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        cls: type[torch.optim.Optimizer],
        *,
        lr: float,
        weight_decay: float = 0.0,
        options: dict[str, Any] | None = None,
        method: Method | None = None,
        whole_gradients: bool = False,
        max_grad_norm: float | None = None,
    ) -> None:
        arguments: dict[str, Any] = {"lr": lr, **(options or {})}
        if weight_decay:
            arguments["weight_decay"] = weight_decay
        super().__init__(
            params,
            lr=lr,
            method=method,
            whole_gradients=whole_gradients,
            max_grad_norm=max_grad_norm,
            compile="never",
        )
        if self.method.two_passes:
            raise ConfigError(
                f"{type(self.method).__name__} needs the moments, and {cls.__module__}.{cls.__name__} keeps its own "
                "to itself; use optimizer.name sgd, adam or adamw"
            )
        for group in self.param_groups:
            for key in ("weight_decay", "betas", "eps", "momentum"):  # these defaults are ours, not the inner one's
                del group[key]
        try:
            self._inner = cls(self.param_groups, **arguments)  # over the very same groups: it adds its own defaults
        except (TypeError, ValueError) as error:
            raise ConfigError(f"optimizer {cls.__module__}.{cls.__name__} refuses {arguments}: {error}") from error

    def _init_moments(self, param: Tensor, group: dict[str, Any]) -> None:
        """Leave the state to the foreign optimizer, which makes it at its first step."""

    def _apply(self, flat: Flat, method: Method, step: StepView) -> None:
        param, group = flat.param, flat.group
        before = param.detach().clone()
        chunk = Chunk(flat, slice(0, param.numel()), before.view(-1), step, self.mark_flips)
        gradient = param.grad
        param.grad = self._shaped(chunk, method).clone().view_as(param)
        # ZeRO swaps param_groups and their `params` lists from call to call, so the inner one gets just this parameter
        self._inner.param_groups = [{**group, "params": [param]}]
        self._inner.state = self.state  # another object after a checkpoint was loaded
        self._inner.step()
        for key, value in self._inner.param_groups[0].items():
            if key != "params":
                group[key] = value
        param.grad = gradient
        moved_down = before.sub(param).view(-1).div_(chunk.lr)
        update = method.update(moved_down, chunk)
        if update is not moved_down:
            as_wanted = before - chunk.lr * update.view_as(param)
            param.copy_(torch.where((update == moved_down).view_as(param), param, as_wanted))
        self._count_moves(before.sub_(param).view(-1), chunk)
