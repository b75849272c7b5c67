"""Where an image stands among token ids: one image token is replaced by all that the processor makes of the image."""

from collections.abc import Sequence
from typing import Protocol

from cpl_ray.cells import RowError
from cpl_ray.pictures import Picture

Ids = tuple[int, ...]


class ImagePlaces(Protocol):
    """How a vision-language model's processor writes an image into a text; `vision.Vision` is the real one."""

    image_text: str
    """Text that stands for an image outside of a chat template; holds the image token once."""
    image_token_id: int

    def splice(self, picture: Picture) -> Ids:
        """Return the ids that take the place of the image token."""


def spliced(ids: Ids, image_token_id: int, splice: Ids) -> Ids:
    """Return the ids with the first image token replaced by `splice`; as they are where there is none."""
    if image_token_id not in ids:
        return ids
    place = ids.index(image_token_id)
    return ids[:place] + splice + ids[place + 1 :]


def check_places(contexts: Sequence[Ids], answers: Sequence[Ids], image_token_id: int, splice: Ids, text: str) -> None:
    """Refuse an item whose image tokens would not fit its image: the model would end the whole batch with an error.

    Args:
        contexts: of all sequences of the item, spliced.
        answers: of all its sequences.
        image_token_id: may come from nowhere but the splice, though a question may hold its text.
        splice: of the item's image; empty where it has none.
        text: the prompt, for the message.

    Raises:
        RowError: see above.
    """
    wanted = splice.count(image_token_id)
    if any(ids.count(image_token_id) != wanted for ids in contexts) or any(image_token_id in ids for ids in answers):
        raise RowError(
            "the prompt must hold the image token exactly once where there is an image, and nowhere else; "
            f"it reads {text[:80]!r}"
        )
