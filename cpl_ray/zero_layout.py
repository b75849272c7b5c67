"""Read from DeepSpeed's ZeRO wrappers which parameters lie where in the flat tensors that the optimizer sees.

The only place that knows these private attributes; tests/distributed/test_layout.py is their contract.
"""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from cpl_ray.errors import LayoutError
from cpl_ray.layout import Layout, Piece, whole_layout

Pieces = list[list[Piece]]


def read_layout(module: nn.Module, wrapper: Any, stage: int, seen: Sequence[Tensor]) -> Layout:
    """Return the layout of this rank's flat tensors.

    Args:
        module: the model that DeepSpeed trains.
        wrapper: `engine.optimizer` of DeepSpeed, around our optimizer.
        stage: ZeRO stage.
        seen: the tensors that our optimizer was given, in the order of their first sight. ZeRO 3 shows them at the
            first step; before it the layout is that of the order to come, after it the order is verified.

    Raises:
        LayoutError: DeepSpeed is not as expected; says which attribute or tensor.
    """
    params: dict[str, Any] = {name: param for name, param in module.named_parameters() if param.requires_grad}
    if stage == 0:
        return whole_layout(params.items(), seen)
    try:
        flats = list(wrapper.fp32_partitioned_groups_flat) if stage == 3 else seen
        pieces = _stage_3(params, wrapper, seen) if stage == 3 else _stage_1_2(params, seen)
        shapes = {name: tuple(p.ds_shape if stage == 3 else p.shape) for name, p in params.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise LayoutError(
            f"the partitions of DeepSpeed {version('deepspeed')}, ZeRO stage {stage} ({type(wrapper).__name__}), are "
            f"not as expected: {type(error).__name__}: {error}"
        ) from error
    layout = Layout(shapes, tuple(tuple(sorted(flat, key=lambda piece: piece.part.start)) for flat in pieces))
    layout.check([flat.numel() for flat in flats])
    return layout


def _stage_1_2(params: dict[str, Any], flats: Sequence[Tensor]) -> Pieces:
    """A group's parameters are laid end to end and cut in equal parts; also bf16's own wrapper."""
    pieces: Pieces = [[] for _ in flats]
    for name, param in params.items():
        mapping = param._hp_mapping
        if mapping is None:  # no element of it on this rank
            continue
        mine, flat = mapping.lp_fragment_address, mapping.hp_fragment_address
        here = slice(flat.start, flat.start + flat.numel)
        if mine.numel != flat.numel:
            raise ValueError(f"{name}: {mine.numel} elements are mapped to {flat.numel}")
        holders = [
            index
            for index, tensor in enumerate(flats)
            if here.stop <= tensor.numel() and tensor[here].data_ptr() == mapping.hp_fragment.data_ptr()
        ]
        if len(holders) != 1:
            raise ValueError(f"{name}: its master lies in {len(holders)} of the optimizer's {len(flats)} tensors")
        pieces[holders[0]].append(Piece(name, tuple(param.shape), mine.start, here))
    return pieces


def _stage_3(params: dict[str, Any], wrapper: Any, seen: Sequence[Tensor]) -> Pieces:
    """Each parameter is cut in equal parts, the last one padded; a sub-group lays its parts end to end."""
    pieces: Pieces = []
    names = {id(param): name for name, param in params.items()}
    for index, (group, flat) in enumerate(zip(wrapper.fp16_groups, wrapper.fp32_partitioned_groups_flat, strict=True)):
        if seen and (index >= len(seen) or seen[index] is not flat):
            raise ValueError(f"the tensor of sub-group {index} is not number {index} of the optimizer's {len(seen)}")
        pieces.append([])
        offset = 0
        for param in group:
            size = param.partition_numel()
            start = size * dist.get_rank(param.ds_process_group)
            numel = min(size, param.ds_numel - start)
            if numel > 0:
                here = slice(offset, offset + numel)
                pieces[-1].append(Piece(names[id(param)], tuple(param.ds_shape), start, here))
            offset += size
        if offset != flat.numel():
            raise ValueError(f"sub-group {index} has {flat.numel()} elements, its parameters {offset}")
    return pieces
