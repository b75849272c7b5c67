"""A tiny LLaVA (CLIP tower, Llama) with random weights, its processor, and pictures: no network, no torchvision."""

import io
import warnings
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

IMAGE_TOKEN = 257
NUM_PIECES = 4
LENGTH = 220


def toy_processor() -> Any:
    """Return a processor of 16 x 16 pixels in four pieces; its tokens are bytes, `<eos>` and `<image>`."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(BPE({letter: index for index, letter in enumerate([*letters, "<eos>"])}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    words = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<eos>", pad_token="<eos>", additional_special_tokens=["<image>"]
    )
    images: Any = LlavaImageProcessorPil
    size = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    return LlavaProcessor(
        images(**size),
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def toy_vlm(seed: int = 0) -> Any:
    """Build the model; weights are large enough that pictures change answers."""
    torch.manual_seed(seed)
    tower = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        initializer_range=0.2,
    )
    text = LlamaConfig(
        vocab_size=258,
        hidden_size=24,
        intermediate_size=36,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        initializer_range=0.2,
        bos_token_id=256,
        eos_token_id=256,
    )
    config = LlavaConfig(
        vision_config=tower,
        text_config=text,
        image_token_index=IMAGE_TOKEN,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LlavaForConditionalGeneration(config).eval()


def png(colour: str, size: tuple[int, int] = (20, 24)) -> bytes:
    """Return a picture of one colour as PNG."""
    sink = io.BytesIO()
    Image.new("RGB", size, colour).save(sink, "PNG")
    return sink.getvalue()


def write_world(folder: Path, colours: dict[str, str]) -> list[dict[str, str]]:
    """Write a picture per colour and return rows that ask its answer."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for colour, answer in colours.items():
        (folder / f"{colour}.png").write_bytes(png(colour))
        rows.append({"id": colour, "question": "Which?", "answer": answer, "image": f"{colour}.png"})
    return rows
