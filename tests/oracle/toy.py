"""A small causal language model and random items for numeric tests."""

import random
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from cpl_ray.encoding import Encoded
from cpl_ray.order import Rows

VOCAB = 61


def toy_model(
    dtype: torch.dtype = torch.float32, *, seed: int = 0, tied: bool = False, dropout: float = 0.0
) -> nn.Module:
    """Build a 2-layer Llama (grouped queries, odd sizes) with weights large enough for lively gradients."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"attn_implementation": "eager"}
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=24,
        intermediate_size=36,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        attention_dropout=dropout,
        **settings,
    )
    model: nn.Module = LlamaForCausalLM(config)
    return model.to(dtype)


def toy_items(count: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Return (prompt, answer) token lists of different lengths."""
    rng = random.Random(seed)
    tokens = lambda low, high: [rng.randrange(1, VOCAB) for _ in range(rng.randint(low, high))]  # noqa: E731
    return [(tokens(3, 9), tokens(1, 4)) for _ in range(count)]


class Rowset:
    """Items in memory as the loop's row source."""

    def __init__(self, items: list[tuple[list[int], list[int]]]) -> None:
        self.num_rows = len(items)
        self._rows = [Encoded(str(i), tuple(p), tuple(a)) for i, (p, a) in enumerate(items)]

    def take(self, rows: Rows) -> list[Encoded]:
        return [self._rows[row] for row in rows]
