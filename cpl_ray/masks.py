"""Classes of whole parameters in a file: one bit each, by parameter name."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from cpl_ray.atomic import atomic_write_bytes
from cpl_ray.studies.names import parameter_type
from cpl_ray.studies.overlap import Overlap

_SIZE = "size."


def save_masks(path: Path, masks: dict[str, Tensor]) -> None:
    """Write masks, bool `[num_params]` each by parameter name, whole or not at all."""
    tensors: dict[str, Tensor] = {}
    for name, mask in masks.items():
        tensors[name] = torch.from_numpy(np.packbits(mask.view(-1).cpu().numpy()))
        tensors[f"{_SIZE}{name}"] = torch.tensor(mask.numel())
    atomic_write_bytes(path, save(tensors))


def load_masks(path: Path) -> dict[str, Tensor]:
    """Read what `save_masks` wrote."""
    tensors = load_file(path)
    names = [name for name in tensors if not name.startswith(_SIZE)]
    sizes = {name: int(tensors[f"{_SIZE}{name}"]) for name in names}
    return {
        name: torch.from_numpy(np.unpackbits(tensors[name].numpy(), count=sizes[name]).astype(bool)) for name in names
    }


def shuffled(masks: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return masks of the same density in every parameter, whose elements lie elsewhere: the control of a mask."""
    generator = torch.Generator().manual_seed(seed)
    return {name: mask[torch.randperm(mask.numel(), generator=generator)] for name, mask in masks.items()}


def overlaps(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Overlap]:
    """Return how two sets of masks over the same parameters agree, by parameter type, and over `all`.

    Raises:
        ValueError: they are not of the same parameters.
    """
    if {name: mask.numel() for name, mask in first.items()} != {name: mask.numel() for name, mask in second.items()}:
        raise ValueError("the masks are of other parameters")
    found: dict[str, Overlap] = {}
    for name, a in first.items():
        b = second[name]
        pairs = (a & b, a & ~b, ~a & b, ~a & ~b)
        own = Overlap(*(int(pair.sum()) for pair in pairs))
        for key in (parameter_type(name), "all"):
            found[key] = found[key] + own if key in found else own
    return found


def conflict_shares(masks: dict[str, Tensor]) -> dict[str, float]:
    """Return the share of conflicting elements by parameter type, and over `all`."""
    counts: dict[str, list[int]] = {}
    for name, mask in masks.items():
        for key in (parameter_type(name), "all"):
            own = counts.setdefault(key, [0, 0])
            own[0] += int((~mask).sum())
            own[1] += mask.numel()
    return {key: conflict / numel for key, (conflict, numel) in counts.items() if numel}
