"""Made-up items and a small random model with its tokenizer, for measurements that ask nothing of their meaning."""

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from cpl_ray.encoding import Encoded
from cpl_ray.order import Rows

VOCABULARY = 1024
ANSWER = 4
"""Tokens of an answer."""


class RandomRows:
    """Random encoded items of one length as the loop's row source."""

    def __init__(self, number: int, length: int, seed: int) -> None:
        generator = random.Random(seed)
        drawn = [tuple(generator.choices(range(VOCABULARY), k=length)) for _ in range(number)]
        self._rows = [Encoded(str(index), row[:-ANSWER], row[-ANSWER:]) for index, row in enumerate(drawn)]
        self.num_rows = number

    def take(self, rows: Rows) -> list[Encoded]:
        """Return rows by number."""
        return [self._rows[row] for row in rows]


def question(number: int) -> dict[str, object]:
    """Return a row of a file of items: one question with four choices, the right one by turns."""
    choices = [f"Town {number}", f"Village {number + 1}", f"City {number + 2}", f"Hamlet {number + 3}"]
    text = f"What is the capital of province number {number} in the list of provinces?"
    return {"question": text, "choices": choices, "answer": number % 4}


def model_settings(hidden: int, layers: int) -> Qwen2Config:
    """Return the shape of a model: heads of 64 (or one of all), four times as wide inside, a small vocabulary."""
    heads = max(1, hidden // 64)
    return Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )


def save_small_model(folder: Path) -> None:
    """Write a random model of a few thousand parameters and a tokenizer that reads the questions."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([str(question(number)) for number in range(500)], trainer)
    torch.manual_seed(0)
    Qwen2ForCausalLM(model_settings(16, 1)).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>").save_pretrained(folder)
