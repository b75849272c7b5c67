"""Read scores of choices off a model's logits: over shared prompts where the model allows it, else row by row."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from weakref import WeakKeyDictionary

import torch
from torch import nn

from cpl_ray.forward import dummy_forward, inside, read_logits
from cpl_ray.pictures import Picture
from cpl_ray.shared_prefix import deviation, longest_shareable, read_tree, tolerance
from cpl_ray.token_tree import TokenTree, pack
from cpl_ray.vision import Vision

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ask:
    """One thing to read off the logits of an input: a sum of log-probabilities, or the logits of letters."""

    item: int
    """Index of the item (of the order of its options, where there are several)."""
    inputs: tuple[int, ...]
    start: int
    """Position of the first logits needed; they reach to the end of the input."""
    targets: tuple[int, ...]
    """Continuation tokens (one per position from `start`), or letter tokens (all at `start`)."""
    letters: bool
    picture: Picture | None = None


class _Trust(IntEnum):
    """What is known of a model's numbers over shared prompts; of several ranks the largest counts."""

    EQUAL = 0
    UNKNOWN = 1
    DIFFERENT = 2


_TRUST: WeakKeyDictionary[nn.Module, _Trust] = WeakKeyDictionary()


def read_scores(
    model: nn.Module,
    asks: Sequence[Ask],
    *,
    batch_size: int,
    sync_max: Callable[[int], int],
    vision: Vision | None = None,
    share_prompts: bool = True,
) -> dict[int, list[float]]:
    """Return the scores of each asked item in the order of its asks; equal inputs are run once.

    Whether prompts can be shared is decided by the model alone, and by all ranks together. What comes out non-finite
    over a shared prompt is read again by itself: one bad item in a pass spoils its neighbours there.

    Args:
        model: in evaluation mode. Under ZeRO-3 every rank must call this together, each with its own asks.
        asks: what to read; those of an item follow each other in the order of its choices.
        batch_size: sequences per forward pass; over shared prompts as many as cost no more.
        sync_max: maximum of a number over all ranks, a collective.
        vision: makes the inputs of images; rows then share nothing.
        share_prompts: compute what inputs begin with once, where the model allows it. The same on every rank.
    """
    results: dict[int, list[float]] = {}
    device = next(model.parameters()).device
    longest = longest_shareable(model) if share_prompts and vision is None and batch_size > 1 else 0
    if longest > 0:
        results = _read_shared(model, asks, batch_size, longest, sync_max, device)
    left = [index for index in range(len(asks)) if not all(map(math.isfinite, results.get(index, (math.nan,))))]
    results |= _read_apart(model, asks, left, batch_size, sync_max, device, vision)
    by_item: dict[int, list[float]] = {}
    for index, ask in enumerate(asks):
        by_item.setdefault(ask.item, []).extend(results[index])
    return by_item


def _read_apart(
    model: nn.Module,
    asks: Sequence[Ask],
    indices: Sequence[int],
    batch_size: int,
    sync_max: Callable[[int], int],
    device: torch.device,
    vision: Vision | None = None,
) -> dict[int, list[float]]:
    """Return the scores of the asks at `indices`, each input a row of its own."""
    sharing: dict[tuple[tuple[int, ...], Picture | None], list[int]] = {}
    for index in indices:
        sharing.setdefault((asks[index].inputs, asks[index].picture), []).append(index)
    # similar lengths together: little padding; longest first: memory is exhausted at once or never
    inputs = sorted(sharing, key=lambda key: (-len(key[0]), key[0], "" if key[1] is None else key[1].sha256))
    results: dict[int, list[float]] = {}
    for batch in range(sync_max(-(-len(inputs) // batch_size))):
        rows = inputs[batch * batch_size : (batch + 1) * batch_size]
        if not rows:
            dummy_forward(model, device, vision)
            continue
        firsts = [min(asks[index].start for index in sharing[row]) for row in rows]
        pictures = [picture for _, picture in rows]
        kept = read_logits(model, [ids for ids, _ in rows], firsts, device, vision, pictures)
        for row, first, logits in zip(rows, firsts, kept, strict=True):
            for index in sharing[row]:
                results[index] = _scores(asks[index], logits, first)
    return results


def _scores(ask: Ask, logits: torch.Tensor, first: int) -> list[float]:
    """Return the letters' logits, or one sum of log-probabilities (natural log)."""
    targets = torch.tensor(ask.targets, device=logits.device)
    if ask.letters:
        return logits[ask.start - first, targets].tolist()
    logprobs = torch.log_softmax(logits[ask.start - first :], dim=-1)
    return [logprobs.gather(1, targets[:, None]).double().sum().item()]


def _read_shared(
    model: nn.Module,
    asks: Sequence[Ask],
    batch_size: int,
    longest: int,
    sync_max: Callable[[int], int],
    device: torch.device,
) -> dict[int, list[float]]:
    """Return the scores of asks that share a pass with others; of none where the model is not right with that."""
    sharing: dict[tuple[int, ...], list[int]] = {}
    groups: dict[int, list[tuple[int, ...]]] = {}
    for index, ask in enumerate(asks):
        if len(ask.inputs) <= longest:
            if ask.inputs not in sharing:
                groups.setdefault(ask.item, []).append(ask.inputs)
            sharing.setdefault(ask.inputs, []).append(index)
    trees = [tree for tree in pack(list(groups.values()), batch_size) if len(tree.paths) > 1]
    # largest first: memory is exhausted at once or never, and the largest is the one that is checked
    trees.sort(key=lambda tree: -len(tree.tokens))
    num_passes = sync_max(len(trees))
    if num_passes == 0 or not _trusted(model, trees[:1], asks, sharing, sync_max, device):
        return {}
    results: dict[int, list[float]] = {}
    for number in range(num_passes):
        if number < len(trees):
            here = [index for ids in trees[number].paths for index in sharing[ids]]
            results |= _of_tree(model, trees[number], asks, here, device)
        else:
            dummy_forward(model, device)
    return results


def _of_tree(
    model: nn.Module, tree: TokenTree, asks: Sequence[Ask], here: Sequence[int], device: torch.device
) -> dict[int, list[float]]:
    """Return the scores of the asks at the indices `here`, whose inputs are the sequences of the tree."""
    nodes: list[int] = []
    targets: list[int] = []
    for index in here:
        ask = asks[index]
        path = tree.paths[ask.inputs]
        nodes += [path[ask.start]] * len(ask.targets) if ask.letters else path[ask.start :]
        targets += ask.targets
    needed = sorted(set(nodes))
    logits = read_tree(model, tree, needed, device)
    place = {node: row for row, node in enumerate(needed)}
    rows = torch.tensor([place[node] for node in nodes], device=device)
    raw = logits[rows, torch.tensor(targets, device=device)]
    logprobs = (raw - logits.logsumexp(dim=1)[rows]).tolist()
    raw_values = raw.tolist()
    results: dict[int, list[float]] = {}
    begin = 0
    for index in here:
        end = begin + len(asks[index].targets)
        results[index] = raw_values[begin:end] if asks[index].letters else [sum(logprobs[begin:end])]
        begin = end
    return results


def _trusted(
    model: nn.Module,
    largest: Sequence[TokenTree],
    asks: Sequence[Ask],
    sharing: dict[tuple[int, ...], list[int]],
    sync_max: Callable[[int], int],
    device: torch.device,
) -> bool:
    """Tell whether a model gives equal numbers over shared prompts; measured once per model, agreed by all ranks.

    Args:
        largest: the largest tree of this rank; none where it has nothing to read.
    """
    inner = inside(model)
    trust = sync_max(_TRUST.get(inner, _Trust.UNKNOWN))
    if trust != _Trust.UNKNOWN:
        return trust == _Trust.EQUAL
    tree, reason = TokenTree(), ""
    tree.add((0, 0))  # runs along where this rank has nothing to read
    firsts: dict[tuple[int, ...], int] = {(0, 0): 0}
    if largest:
        tree = largest[0]
        firsts = {ids: min(asks[index].start for index in sharing[ids]) for ids in tree.paths}
    found = _Trust.EQUAL
    try:
        measured, bound = deviation(model, tree, firsts, device), tolerance(model)
    # whatever the code of a model raises that cannot do with such a mask; rows by themselves are always possible
    except Exception as error:
        found, reason = _Trust.DIFFERENT, f"{type(error).__name__}: {error}".splitlines()[0]
    else:
        if not math.isfinite(measured):
            found = _Trust.UNKNOWN if largest else _Trust.EQUAL
        elif measured > bound:
            found, reason = _Trust.DIFFERENT, f"logits deviate by {measured:.2g}, more than rounding ({bound:.2g})"
    trust = sync_max(found)
    if trust != _Trust.UNKNOWN:
        _TRUST[inner] = _Trust(trust)
    if trust == _Trust.DIFFERENT:
        name = type(inner).__name__
        _log.warning(f"{name}: prompts are not shared between choices: {reason or 'another rank found a difference'}")
    return trust == _Trust.EQUAL
