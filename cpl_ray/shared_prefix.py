"""One forward pass over a tree of token sequences: what several of them begin with is computed once.

The nodes of the tree are one row. Each sees its ancestors and itself only (a 4D attention mask) and has the position
it has in its own sequence (`position_ids`), so that its logits are those of the sequence alone, up to rounding. The
same device is known as tree attention (Miao et al. 2024, SpecInfer, arXiv 2305.09781, section 4).

Not every model takes such a mask, or is right with it. What a model tells about itself is asked by
`longest_shareable`; whether its numbers are those of plain rows is measured once per model by `deviation`.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from cpl_ray.forward import accepts, inside, read_logits
from cpl_ray.token_tree import TokenTree

_ATTENTION = frozenset({"sdpa", "eager"})
_LAYERS = frozenset({"full_attention", "sliding_attention"})
_BY_PLACE = ("alibi", "attention_chunk_size", "window_size", "attention_window", "local_attention", "index_topk")
"""Settings of models whose attention looks at places in the row, which are not positions in a tree."""
_BY_LENGTH = frozenset({"dynamic", "longrope"})
"""Rotary embeddings that depend on the longest sequence in the batch."""


def longest_shareable(model: nn.Module) -> int:
    """Return the length up to which sequences may share a pass by what is known of the model; 0: none.

    Known to be right: models of transformers that build their mask by `create_causal_mask`, which hands on a 4D mask as
    it is, with eager or SDPA attention, over the whole sequence or over a window that the sequence does not exceed.
    """
    inner: Any = inside(model)
    builders = vars(sys.modules[type(inner).__module__])
    if "create_causal_mask" not in builders or not accepts(inner, "position_ids"):
        return 0
    config = inner.config.get_text_config()
    settings = config.to_dict()
    if config._attn_implementation not in _ATTENTION or any(settings.get(key) for key in _BY_PLACE):
        return 0
    if not _LAYERS.issuperset(settings.get("layer_types") or ()) or _rope_types(settings) & _BY_LENGTH:
        return 0
    window = settings.get("sliding_window")
    return window if isinstance(window, int) and window > 0 else sys.maxsize


def _rope_types(settings: Any) -> set[str]:
    """Return the kinds of rotary embeddings named anywhere in the settings of a model; layers may differ."""
    if not isinstance(settings, dict):
        return set()
    named = {value for key, value in settings.items() if key == "rope_type" and isinstance(value, str)}
    return named.union(*map(_rope_types, settings.values()))


def read_tree(model: nn.Module, tree: TokenTree, needed: Sequence[int], device: torch.device) -> torch.Tensor:
    """Run a tree through the model.

    Args:
        model: one for which `longest_shareable` allows the tree's sequences.
        tree: at least one sequence.
        needed: nodes whose logits are wanted.
        device: where the model is.

    Returns:
        The logits after each needed node, float32 `[len(needed), vocabulary]`.
    """
    dtype = next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    num_nodes = len(tree.tokens)
    sees = torch.eye(num_nodes, dtype=torch.bool)
    for node, parent in enumerate(tree.parents):
        if parent >= 0:
            sees[node] |= sees[parent]
    mask = torch.zeros(num_nodes, num_nodes, dtype=dtype).masked_fill_(~sees, torch.finfo(dtype).min)
    arguments: dict[str, Any] = {
        "input_ids": torch.tensor([tree.tokens], device=device),
        "attention_mask": mask[None, None].to(device),
        "position_ids": torch.tensor([tree.depths], device=device),
        "use_cache": False,
    }
    nodes = torch.tensor(needed, device=device)
    if accepts(model, "logits_to_keep"):
        logits: torch.Tensor = model(**arguments, logits_to_keep=nodes).logits[0]
    else:
        logits = model(**arguments).logits[0, nodes]
    return logits.float()


def deviation(model: nn.Module, tree: TokenTree, firsts: dict[tuple[int, ...], int], device: torch.device) -> float:
    """Measure how far logits of a tree are from those of plain rows, by its first and its last sequence.

    Two forward passes. `firsts` gives the first needed position of every sequence of the tree.

    Returns:
        The largest root mean square difference of the logits at a position, in standard deviations of the plain logits
        over the vocabulary there; NaN where some are not finite.
    """
    sequences = list(tree.paths)
    rows = list(dict.fromkeys((sequences[0], sequences[-1])))
    nodes = [node for row in rows for node in tree.paths[row][firsts[row] :]]
    shared = read_tree(model, tree, nodes, device)
    plain = torch.cat(list(read_logits(model, rows, [firsts[row] for row in rows], device)))
    apart = (shared - plain).square().mean(dim=1).sqrt() / plain.std(dim=1).clamp_min(torch.finfo(plain.dtype).tiny)
    return float(apart.max())


def tolerance(model: nn.Module) -> float:
    """Return the deviation up to which two ways of computing logits count as equal.

    The square root of the machine epsilon of the model's numbers: rounding accumulates over layers, but is far below
    it, and attention to a wrong token is far above.
    """
    dtype = next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return float(torch.finfo(dtype).eps ** 0.5)
