"""Vision-language models: what transformers' processor makes of an item's image, as token ids and as model inputs.

Every forward pass of such a model takes at least one image: a batch without any gets a blank one in a row of its own
that nothing looks at. Else the vision tower would run on some ranks only, and the collectives of ZeRO would wait for
ever.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, PretrainedConfig
from transformers.utils import logging as transformers_logging

from cpl_ray.cells import RowError
from cpl_ray.config import Config
from cpl_ray.errors import ConfigError
from cpl_ray.image_places import Ids
from cpl_ray.model_source import local_source
from cpl_ray.pictures import Picture, open_picture

_BLANK = (32, 32)
_CACHED = 256
_TOKEN_SHAPED = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


def takes_images(config: PretrainedConfig) -> bool:
    """Tell whether a model's own configuration is that of a vision-language model."""
    return "vision_config" in config.to_dict() and type(config) in AutoModelForImageTextToText._model_mapping


class Vision:
    """The images of one model's inputs.

    Attributes:
        processor: saved beside the model.
        image_text: stands for an image outside of a chat template.
        image_token_id: the token that the processor repeats for each piece of an image.
        pad_id: a token that is none of an image's, for padding.
        blank_row: ids of a row with a blank image.
    """

    def __init__(self, processor: Any, *, image_text: str | None = None) -> None:
        """Ask the processor how it writes images.

        Args:
            processor: of transformers, with tokenizer and image processor.
            image_text: None: the image token and a line end.

        Raises:
            ConfigError: the processor has no image token, the text does not hold it once, or no image can be written.
        """
        self.processor = processor
        token: str | None = getattr(processor, "image_token", None)  # every processor has its own attributes
        if token is None:
            raise ConfigError(f"the processor {type(processor).__name__} has no image token; it is not supported")
        self.image_token_id = int(processor.tokenizer.convert_tokens_to_ids(token))
        self.image_text = f"{token}\n" if image_text is None else image_text
        bare = processor.tokenizer.encode(self.image_text, add_special_tokens=False)
        if bare.count(self.image_token_id) != 1:
            raise ConfigError(f"prompt.image must hold the image token {token!r} exactly once; got {self.image_text!r}")
        self._token = token
        self._splice_of = lru_cache(_CACHED)(lambda picture: self._splice(open_picture(picture)))
        try:
            splice = self._splice(self._blank())
        # processors raise what they like; without its processor a model cannot be asked at all
        except Exception as error:
            raise ConfigError(f"the processor {type(processor).__name__} cannot take an image: {error}") from error
        self.pad_id = next(number for number in range(len(splice) + 1) if number not in splice)
        self.blank_row: Ids = (*splice, self.pad_id)

    def splice(self, picture: Picture) -> Ids:
        """Return the ids that take the place of the image token.

        Raises:
            RowError: the image cannot be opened or processed.
        """
        try:
            return self._splice_of(picture)
        except RowError:
            raise
        # a processor refuses images by whatever its arithmetic raises (of one pixel's width, say)
        except Exception as error:
            raise RowError(f"the processor refuses the image: {error}") from None

    def inputs(self, pictures: Sequence[Picture | None]) -> dict[str, Tensor]:
        """Return the model inputs of the images of a batch, in the order of its rows, beside ids and mask.

        Args:
            pictures: those of the rows that have one; None stands for the blank image.
        """
        images = [[self._blank() if picture is None else open_picture(picture)] for picture in pictures]
        # one call for all: processors pad images of different sizes to each other
        made = self.processor(images=images, text=[self._token] * len(images))
        found = {name: value for name, value in made.items() if name not in _TOKEN_SHAPED}
        return {name: _tensor(value) for name, value in found.items()}

    def _splice(self, image: Image.Image) -> Ids:
        """Return what the processor writes for the image token."""
        ids = self.processor(images=[[image]], text=[self._token], add_special_tokens=False)["input_ids"][0]
        splice = tuple(int(number) for number in ids)
        if self.image_token_id not in splice:
            raise ConfigError(f"the processor {type(self.processor).__name__} writes no image token for an image")
        return splice

    @staticmethod
    def _blank() -> Image.Image:
        return Image.new("RGB", _BLANK)


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    return torch.stack([_tensor(part) for part in value]) if isinstance(value, list | tuple) else torch.as_tensor(value)


def load_vision(config: Config, path: str | Path | None = None) -> Vision | None:
    """Load the processor of `config.model`, or of the folder `path`; None where the model takes no images.

    Raises:
        ConfigError: the model is a vision-language model without a usable processor, or of a kind that is not
            supported.
    """
    name = str(path or config.model)
    folder = local_source(name)
    where: dict[str, Any] = {
        "revision": None if folder else config.model_revision,
        "trust_remote_code": config.trust_remote_code,
    }
    transformers_logging.set_verbosity_error()
    try:
        model_config = AutoConfig.from_pretrained(folder or name, **where)
        if not takes_images(model_config):
            return None
        if "mrope_section" in str(model_config.get_text_config().to_dict()):
            raise ConfigError(
                f"model {name!r} ({model_config.model_type}) numbers the positions of images in three dimensions, "
                "which is not supported; models in the manner of LLaVA are"
            )
        from transformers import AutoProcessor  # brings all of transformers' modelling, which text alone never needs

        processor: Any = AutoProcessor.from_pretrained(folder or name, **where)
    except ConfigError:
        raise
    # damaged or foreign files fail in every way there is; all of them mean the same to the user
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConfigError(f"the processor of model {name!r} cannot be loaded: {reason}") from error
    return Vision(processor, image_text=config.prompt.image)
