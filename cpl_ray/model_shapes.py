"""Shapes of published models, for planning where their configuration cannot be reached: config.json keys by hub id.

Only what decides sizes and layers is here; the numbers are those of the models' own config.json files.
"""

from collections.abc import Mapping
from typing import Any

_Shape = dict[str, Any]


def _qwen2(hidden: int, intermediate: int, layers: int, heads: int, vocabulary: int, kv: int, *, tied: bool) -> _Shape:
    return _shape("qwen2", hidden, intermediate, layers, heads, vocabulary, kv, 32768, tied)


def _llama(hidden: int, intermediate: int, layers: int, heads: int, head_dim: int) -> _Shape:
    return _shape("llama", hidden, intermediate, layers, heads, 128256, 8, 131072, True) | {"head_dim": head_dim}


def _shape(
    kind: str,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    vocabulary: int,
    kv: int,
    length: int,
    tied: bool,
) -> _Shape:
    return {
        "model_type": kind,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocabulary,
        "max_position_embeddings": length,
        "tie_word_embeddings": tied,
    }


_QWEN_1_5B = _qwen2(1536, 8960, 28, 12, 151936, 2, tied=True)
_QWEN_3B = _qwen2(2048, 11008, 36, 16, 151936, 2, tied=True)
_QWEN_7B = _qwen2(3584, 18944, 28, 28, 152064, 4, tied=False)
_LLAMA_1B = _llama(2048, 8192, 16, 32, 64)
_LLAMA_3B = _llama(3072, 8192, 28, 24, 128)

SHAPES: Mapping[str, _Shape] = {
    "Qwen/Qwen2.5-1.5B": _QWEN_1_5B,
    "Qwen/Qwen2.5-1.5B-Instruct": _QWEN_1_5B,
    "Qwen/Qwen2.5-3B": _QWEN_3B,
    "Qwen/Qwen2.5-3B-Instruct": _QWEN_3B,
    "Qwen/Qwen2.5-7B": _QWEN_7B,
    "Qwen/Qwen2.5-7B-Instruct": _QWEN_7B,
    "meta-llama/Llama-3.2-1B": _LLAMA_1B,
    "meta-llama/Llama-3.2-1B-Instruct": _LLAMA_1B,
    "meta-llama/Llama-3.2-3B": _LLAMA_3B,
    "meta-llama/Llama-3.2-3B-Instruct": _LLAMA_3B,
}
"""Architecture by hub id; `model_type` names the class of configuration."""
