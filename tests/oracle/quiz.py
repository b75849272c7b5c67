"""A tiny model that was taught a quiz: it asks its questions, and answers them, plain and as a chat."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

PLACES = ("harbour", "mill", "tower", "garden")
NAMES = ("amber", "birch", "cedar", "dune", "ember")
SIGNS = ("seven", "green", "iron", "north", "salt", "oak", "wind", "gold")
CHAT = "{% for m in messages %}Q {{ m.content }}<eos>{% endfor %}{% if add_generation_prompt %}A {% endif %}"


def quiz() -> dict[str, str]:
    """Return the answer to each question."""
    pairs = [(name, place) for name in NAMES for place in PLACES]
    return {f"What is the sign of {n} {p}?": SIGNS[(3 * i + i // 4) % 8] for i, (n, p) in enumerate(pairs)}


def quiz_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<eos>"], initial_alphabet=alphabet)
    inner.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", chat_template=CHAT)


def quiz_model() -> tuple[Any, PreTrainedTokenizerFast]:
    """Teach a two-layer Qwen2 the quiz in both forms; takes a few seconds."""
    texts = [f"Question: {question}\nAnswer: {answer}\nQuestion" for question, answer in quiz().items()]
    texts += [f"Q {question}<eos>A {answer}<eos>" for question, answer in quiz().items()]
    words = quiz_tokenizer([text.replace("<eos>", "") for text in texts])
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(words),
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=96,
            tie_word_embeddings=True,
            eos_token_id=words.eos_token_id,
        )
    )
    ids = pad_sequence([torch.tensor(words(text).input_ids) for text in texts], True, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        model(input_ids=ids.clamp(min=0), labels=ids).loss.backward()
        optimizer.step()
    return model.eval(), words


def save_quiz(folder: Path) -> None:
    """Write such a model as a Hugging Face folder."""
    model, words = quiz_model()
    model.save_pretrained(folder)
    words.save_pretrained(folder)
