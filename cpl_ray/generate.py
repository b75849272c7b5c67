"""Greedy generation: our own loop, so that all ranks of ZeRO-3 run the same number of forward passes.

No sampling and no penalties, whatever the model's generation settings say: the answer is the argmax at every step.
Who wants a sample perturbs the logits first (`sampling.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from cpl_ray.forward import accepts, alone, dummy_forward, image_inputs
from cpl_ray.pictures import Picture
from cpl_ray.vision import Vision


@dataclass(slots=True)
class Generated:
    """What the model continued one context with."""

    ids: list[int] = field(default_factory=list)
    """New tokens, without the end token."""
    finite: bool = True
    """False where logits were NaN or infinite; `ids` ends before that step."""
    stopped: bool = False
    """True where an end token ended it, not a limit."""


def stop_ids(model: nn.Module, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end an answer: the tokenizer's end token and those of the generation settings."""
    settings = getattr(model, "generation_config", None)
    ends = settings.eos_token_id if settings is not None else None
    ends = ends if isinstance(ends, list) else [ends]
    return frozenset(int(end) for end in [*ends, tokenizer.eos_token_id] if end is not None)


def _left_padded(
    contexts: Sequence[Sequence[int]], device: torch.device, pad_id: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask, both int64 `[rows, longest]`; a row is padded with its own first token.

    So padding is always a token the model has, and a row cannot be touched by a token that it does not hold. Where a
    first token may be of an image, `pad_id` says what pads.
    """
    longest = max(len(context) for context in contexts)
    ids = [
        [context[0] if pad_id is None else pad_id] * (longest - len(context)) + list(context) for context in contexts
    ]
    mask = [[0] * (longest - len(context)) + [1] * len(context) for context in contexts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


@torch.no_grad()
def greedy(
    model: nn.Module,
    contexts: Sequence[Sequence[int]],
    *,
    max_new: Sequence[int],
    stop: frozenset[int],
    max_positions: int,
    device: torch.device,
    finished: Callable[[int, list[int]], bool] | None = None,
    sync_max: Callable[[int], int] = alone,
    vision: Vision | None = None,
    pictures: Sequence[Picture | None] = (),
    perturb: Callable[[int, torch.Tensor], torch.Tensor] | None = None,
) -> list[Generated]:
    """Continue each context greedily, in one batch with a key-value cache.

    Args:
        model: a causal language model in evaluation mode.
        contexts: token ids of each row, none empty; no rows at all on a rank that only keeps others company.
        max_new: largest number of new tokens of each row.
        stop: tokens that end a row.
        max_positions: the model's limit; a row that reaches it ends.
        device: where the model is.
        finished: asked after each new token with the row's index and its new tokens; True ends the row.
        sync_max: maximum over ranks; called once before each step, so all ranks take equally many.
        vision: makes the inputs of images; the model must have a cache, since images are read in the first step only.
        pictures: image of each row, with `vision`.
        perturb: called with the index and the finite logits `[vocabulary]`, float64, of each row that goes on, once per
            new token; returns what the argmax is taken of.

    Returns:
        One result per context, in order.
    """
    company = vision is not None and bool(contexts) and not any(pictures)
    if vision is not None and company:  # a row with a blank image that generates nothing
        contexts, max_new = [*contexts, vision.blank_row], [*max_new, 0]
    rows = [Generated() for _ in contexts]
    room = [max(0, min(n, max_positions - len(c) + 1)) for n, c in zip(max_new, contexts, strict=True)]
    open_rows = {row for row, left in enumerate(room) if left > 0}
    keywords: dict[str, Any] = {"logits_to_keep": 1} if accepts(model, "logits_to_keep") else {}
    positioned = accepts(model, "position_ids")
    cache: Any = None
    images: dict[str, torch.Tensor] = {}
    if rows:
        images = image_inputs(vision, pictures, device)
        ids, mask = _left_padded(contexts, device, None if vision is None else vision.pad_id)
        feed = ids
    while sync_max(int(bool(open_rows))):
        if not open_rows:
            dummy_forward(model, device, vision)
            vision = None  # like the other ranks, once
            continue
        if positioned:
            # rows that have ended are fed on with the others and must stay inside the model's limit
            positions = (mask.cumsum(-1) - 1).clamp(0, max_positions - 1)
            keywords["position_ids"] = positions[:, -feed.shape[1] :]
        output = model(input_ids=feed, attention_mask=mask, past_key_values=cache, use_cache=True, **keywords, **images)
        images, vision = {}, None
        cache = output.get("past_key_values")
        logits = output.logits[:, -1].float()
        finite = torch.isfinite(logits.max(-1).values).tolist()
        if perturb is not None:
            chosen = [row for row in open_rows if finite[row]]
            logits = logits.double()
            for row in chosen:
                logits[row] = perturb(row, logits[row])
        new = logits.argmax(-1)
        for row, token in enumerate(new.tolist()):
            if row not in open_rows:
                continue
            if not finite[row]:
                rows[row].finite = False
                open_rows.discard(row)
            elif token in stop:
                rows[row].stopped = True
                open_rows.discard(row)
            else:
                rows[row].ids.append(token)
                if len(rows[row].ids) >= room[row] or (finished is not None and finished(row, rows[row].ids)):
                    open_rows.discard(row)
        # NaN rows have no argmax that means anything; any id of the vocabulary keeps them harmless
        new = torch.where(torch.tensor(finite, device=device), new, feed[:, -1])
        ids = torch.cat([ids, new[:, None]], dim=1)
        mask = torch.cat([mask, mask.new_ones((mask.shape[0], 1))], dim=1)
        # a model without such a cache reads everything again (one that takes images has one)
        feed = ids if cache is None else new[:, None]
    return rows[:-1] if company else rows
