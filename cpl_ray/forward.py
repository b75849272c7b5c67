"""Forward passes for scoring: right-padded batches, only the logits that are needed, equal numbers on all ranks."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from cpl_ray.items import RowError
from cpl_ray.model import model_max_length
from cpl_ray.pictures import Picture
from cpl_ray.vision import Vision


def inside(model: nn.Module) -> nn.Module:
    """Return the module in a DeepSpeed engine; any other model itself."""
    inner = getattr(model, "module", None)
    return inner if isinstance(inner, nn.Module) else model


def accepts(model: nn.Module, argument: str) -> bool:
    """Tell whether the forward of `model` (a DeepSpeed engine: of the module inside) takes a keyword argument."""
    return argument in inspect.signature(type(inside(model)).forward).parameters


def dummy_forward(model: nn.Module, device: torch.device, vision: Vision | None = None) -> None:
    """Run one token, with `vision` a blank image, through the model; only its collectives matter, to other ranks."""
    ids = [[0]] if vision is None else [list(vision.blank_row)]
    model(input_ids=torch.tensor(ids, device=device), use_cache=False, **image_inputs(vision, [], device))


def image_inputs(
    vision: Vision | None, pictures: Sequence[Picture | None], device: torch.device
) -> dict[str, torch.Tensor]:
    """Return the model inputs of the rows' images, of a blank one where no row has any; nothing without `vision`."""
    if vision is None:
        return {}
    found = vision.inputs([picture for picture in pictures if picture is not None] or [None])
    return {name: tensor.to(device) for name, tensor in found.items()}


def alone(number: int) -> int:
    """Return `number`: the maximum over ranks where there is one rank."""
    return number


class Limits:
    """What a model can take: positions and token ids."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        """Read them off a transformers model, or a DeepSpeed engine around one."""
        self.num_positions = model_max_length(model.config, tokenizer)
        self.num_embeddings = model.get_input_embeddings().num_embeddings

    def check(self, ids: Sequence[int], targets: Sequence[int] = ()) -> None:
        """Refuse an input (or tokens to be looked up in its logits) that would end the whole batch with an index error.

        Raises:
            RowError: too long, or a token beyond the vocabulary.
        """
        if len(ids) > self.num_positions:
            raise RowError(f"{len(ids)} tokens, more than the model's {self.num_positions}")
        highest = max((*ids, *targets))
        if highest >= self.num_embeddings:
            raise RowError(f"token id {highest} is outside the model's vocabulary of {self.num_embeddings}")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch every module to evaluation, and each back to what it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def read_logits(
    model: nn.Module,
    rows: Sequence[tuple[int, ...]],
    firsts: Sequence[int],
    device: torch.device,
    vision: Vision | None = None,
    pictures: Sequence[Picture | None] = (),
) -> Iterator[torch.Tensor]:
    """Run one batch, padded on the right, and yield each row's logits.

    With `vision`, `pictures` are those of the rows; where there is none, a row with a blank one is added.

    Yields:
        The logits of each row in order, from its first needed position to its end, float32 `[positions, vocabulary]`.
    """
    images = image_inputs(vision, pictures, device)
    num_rows = len(rows)
    if vision is not None and not any(pictures):
        rows = [*rows, vision.blank_row]
    longest = max(len(row) for row in rows)
    # a row is padded with its own last token: always a token the model has, and nothing looks at it
    ids = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
    needed = sorted({position for row, first in zip(rows, firsts, strict=False) for position in range(first, len(row))})
    place = {position: index for index, position in enumerate(needed)}
    if accepts(model, "logits_to_keep"):
        kept = model(
            input_ids=ids,
            attention_mask=mask,
            use_cache=False,
            logits_to_keep=torch.tensor(needed, device=device),
            **images,
        ).logits
    else:
        kept = model(input_ids=ids, attention_mask=mask, use_cache=False, **images).logits[:, needed]
    for index, (row, first) in enumerate(zip(rows[:num_rows], firsts, strict=True)):
        # the positions of one row are consecutive, so they are consecutive in `needed` too
        yield kept[index, place[first] : place[len(row) - 1] + 1].float()
