"""Likelihood of choices: shared prompts against a row per choice and against lm-evaluation-harness, equal numbers."""

import time
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.measure import Timing, compare
from cpl_ray.config import Config, DataConfig
from cpl_ray.items import Item
from cpl_ray.model import load_model, load_tokenizer
from cpl_ray.predict import Scorer
from cpl_ray.reading import read_items

ITEMS = Path(__file__).resolve().parents[1] / "examples" / "facts" / "facts.jsonl"
BATCH, LENGTH, VOCAB = 16, 512, 8192
LARGEST_DIFFERENCE = 1e-3
"""In nats: what two ways of rounding in float32 may differ by."""


def run(rounds: int, *, model: str | None = None, num_items: int = 60) -> list[Timing]:
    """Compare CPU seconds on one thread for the same facts, cloze prompts with four choices, at batch size 16."""
    torch.set_num_threads(1)
    items = read_items(str(ITEMS), DataConfig(), name="items").items
    # every n-th: neighbours in the file are about the same country
    items = items[:: len(items) // num_items][:num_items]
    asked, tokenizer = loaded(model) if model else random_model(items)
    config = Config.model_validate({"model": model or "random", "assess": {"batch_size": BATCH}})
    scorers = {}
    for share in (True, False):
        scorers[share] = Scorer.of(config, tokenizer, name="choice_loglik", max_length=LENGTH)
        scorers[share].share_prompts = share
    harness = HFLM(
        pretrained=asked, tokenizer=tokenizer, backend="causal", device="cpu", batch_size=BATCH, max_length=LENGTH
    )
    pairs = [(item.cloze or "", f" {choice}") for item in items for choice in item.choices]

    def ours(share: bool) -> list[float]:
        return list(chain(*(verdict.scores for verdict in scorers[share].score(asked, items))))

    def theirs() -> list[float]:
        requests = [
            Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=index)
            for index, pair in enumerate(pairs)
        ]
        return [value for value, _ in harness.loglikelihood(requests, disable_tqdm=True)]

    check(ours(True), ours(False), theirs())
    return compare(
        {"shared prompts": lambda: ours(True), "a row per choice": lambda: ours(False), "lm-eval HFLM": theirs},
        rounds=rounds,
        warmup=0,
        clock=time.process_time,
    )


def check(shared: list[float], apart: list[float], harness: list[float]) -> None:
    """Refuse to time different computations.

    Raises:
        RuntimeError: log-likelihoods differ by more than rounding.
    """
    for name, values in (("a row per choice", apart), ("lm-eval HFLM", harness)):
        largest = max(abs(one - other) for one, other in zip(shared, values, strict=True))
        print(f"{len(values)} log-likelihoods, largest difference to {name}: {largest:.1e} nats")
        if not largest <= LARGEST_DIFFERENCE:
            raise RuntimeError(f"log-likelihoods differ from {name} by {largest:g}, more than {LARGEST_DIFFERENCE:g}")


def loaded(folder: str) -> tuple[Any, Any]:
    """Return a model in float32 and its tokenizer."""
    return load_model(folder), load_tokenizer(Config.model_validate({"model": folder}))


def random_model(items: list[Item]) -> tuple[Any, Any]:
    """Return a small random model, its vocabulary as large against its layers as in small published ones."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([f"{item.cloze} {choice}" for item in items for choice in item.choices], trainer)
    torch.manual_seed(0)
    settings = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        initializer_range=0.1,
    )
    return LlamaForCausalLM(settings).eval(), PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>")
