"""What the tokenizer makes of an item: a sequence to score, or an item to train."""

from dataclasses import dataclass

from cpl_ray.image_places import Ids
from cpl_ray.pictures import Picture


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to score: `continuation_ids` given `context_ids`."""

    context_ids: Ids
    continuation_ids: Ids


@dataclass(frozen=True, slots=True)
class Encoded:
    """One item to train: the loss is taken on `target_ids` only."""

    id: str
    context_ids: Ids
    target_ids: Ids
    image: Picture | None = None
    """The picture whose tokens are among `context_ids`."""
