"""Train a reparametrisation of the linear layers instead of all parameters, and fold it into ordinary weights.

    lora   W = W0 + (alpha / rank) B A     Hu et al. 2021, arXiv 2106.09685, section 4.1; the layers are peft's
    osft   W = W0 + P_U D P_V              orthogonal.py

The model keeps its class, its forward and the names of all other weights, so engine, loop and scorers see no adapter.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cpl_ray.config_methods import AdapterConfig
from cpl_ray.errors import ConfigError
from cpl_ray.orthogonal import OrthogonalLinear

_LORA = "default"  # peft's name of an adapter that was given none


def adapt(model: PreTrainedModel, adapter: AdapterConfig, *, seed: int = 0, device: str | torch.device = "cpu") -> None:
    """Put the adapter into the model, in place; nothing but the adapter is trainable afterwards.

    At first the model computes what it did. Random state outside is not touched.

    Args:
        model: whole, on the CPU.
        adapter: `none` leaves the model alone.
        seed: of LoRA's random A; ZeRO makes rank 0's values those of all ranks.
        device: where singular value decompositions are made.

    Raises:
        ConfigError: there is no such linear layer, or it shares its weight with the embedding.
    """
    if adapter.name == "none":
        return
    names = _targeted(model, adapter.targets)
    if adapter.name == "lora":
        _inject_lora(model, adapter, names, seed)
    else:
        model.requires_grad_(False)
        for name in names:
            parent, _, leaf = name.rpartition(".")
            layer = model.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            setattr(model.get_submodule(parent), leaf, OrthogonalLinear(layer, adapter.frozen_share, device))
    model.train(model.training)  # new modules begin in training mode


def merged(model: PreTrainedModel, adapter: AdapterConfig, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of the base model's architecture and names that computes what the adapted model does.

    Args:
        model: the adapted model; its own tensors are not read.
        adapter: as given to `adapt`.
        state_dict: all weights of the adapted model; not altered.
    """
    state = dict(state_dict)
    if adapter.name == "none":
        return state
    for name, module in model.named_modules():
        weight = f"{name}.weight"
        if isinstance(module, OrthogonalLinear):
            delta, left, right = (state.pop(f"{name}.{part}", None) for part in ("delta", "left", "right"))
            assert delta is not None
            state[weight] = module.merged(state[weight], delta, left, right)
        elif f"{name}.lora_A.{_LORA}.weight" in state:
            down, up = (state.pop(f"{name}.lora_{part}.{_LORA}.weight") for part in "AB")
            base = state.pop(f"{name}.base_layer.weight")
            state[weight] = _with_product(base, down, up, adapter.alpha / adapter.rank)
            if f"{name}.base_layer.bias" in state:
                state[f"{name}.bias"] = state.pop(f"{name}.base_layer.bias")
    return state


def _with_product(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """Return `weight` + scale * up @ down in the type of `weight`, computed in float32 or wider, rounded once."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    return (weight.to(wide) + scale * (up.to(wide) @ down.to(wide))).to(weight.dtype)


def _inject_lora(model: PreTrainedModel, adapter: AdapterConfig, names: list[str], seed: int) -> None:
    from peft import LoraConfig, inject_adapter_in_model  # needed here only, and slow to import

    settings = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,  # type: ignore[arg-type]  # peft calls it an int and only divides
        lora_dropout=adapter.dropout,
        target_modules=names,
        bias="none",
    )
    before = next(model.parameters()).dtype
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(settings, model, adapter_name=_LORA)
    for param in model.parameters():
        if param.requires_grad:
            param.data = param.data.to(before)  # peft makes those of bfloat16 models float32


def _targeted(model: PreTrainedModel, targets: Sequence[str]) -> list[str]:
    """Return the full names of the linear layers to adapt.

    Raises:
        ConfigError: as `adapt`.
    """
    head = model.get_output_embeddings()
    linear = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    valid = sorted({name.rpartition(".")[2] for name in linear})
    if unknown := sorted(set(targets) - set(valid)):
        raise ConfigError(
            f"adapter.targets: {', '.join(unknown)} is no linear layer of {type(model).__name__}; "
            f"it has {', '.join(valid) or 'none'}"
        )
    if targets:
        names = [name for name in linear if name.rpartition(".")[2] in targets]
    else:
        names = [name for name, module in linear.items() if module is not head]
    if not names:
        raise ConfigError(f"{type(model).__name__} has no linear layer to adapt; set adapter.name=none")
    tied = {*model.all_tied_weights_keys, *model.all_tied_weights_keys.values()}
    if shared := [name for name in names if f"{name}.weight" in tied]:
        raise ConfigError(f"adapter.targets: {', '.join(shared)} shares its weight with another layer (tied)")
    return names
