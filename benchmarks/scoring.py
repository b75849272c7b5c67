"""Likelihood of choices: shared prompts against a row per choice and against lm-evaluation-harness, equal numbers."""

import time
from itertools import chain, cycle
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
PARTS = 5
LARGEST_DIFFERENCE = 1e-3
"""In nats: what two ways of rounding in float32 may differ by."""


def run(rounds: int, *, model: str | None = None, num_items: int = 60) -> list[Timing]:
    """Compare CPU seconds on one thread for the same facts (cloze, four choices), a fifth of them a round; batch 16."""
    torch.set_num_threads(1)
    items = read_items(str(ITEMS), DataConfig(), name="items").items
    # every n-th: neighbours in the file are about the same country
    items = items[:: len(items) // num_items][:num_items]
    asked, tokenizer = loaded(model) if model else random_model(items)
    shared = Asking(asked, tokenizer, items, share=True)
    apart = Asking(asked, tokenizer, items, share=False)
    harness = Asking(asked, tokenizer, items, share=None)
    for asking in (shared, apart, harness):
        asking.warm_up()
    timings = compare(
        {"shared prompts": shared.ask, "a row per choice": apart.ask, "lm-eval HFLM": harness.ask},
        rounds=rounds,
        warmup=0,
        clock=time.process_time,
    )
    print(f"{len(shared.values)} log-likelihoods of {min(rounds * (num_items // PARTS), num_items)} items")
    check(shared.values, {"a row per choice": apart.values, "lm-eval HFLM": harness.values})
    return timings


class Asking:
    """One way of asking, part after part of the items.

    Args:
        model: a model of transformers.
        tokenizer: its tokenizer.
        items: cloze items.
        share: by the project's scorer, with or without shared prompts; None: by lm-evaluation-harness.
    """

    def __init__(self, model: Any, tokenizer: Any, items: list[Item], *, share: bool | None) -> None:
        self.model, self.share = model, share
        self.parts = cycle([items[part::PARTS] for part in range(PARTS)])
        self.values: dict[tuple[str, int], float] = {}
        """Log-likelihoods by item id and choice."""
        config = Config.model_validate({"model": "given", "assess": {"batch_size": BATCH}})
        self.scorer = Scorer.of(config, tokenizer, name="choice_loglik", max_length=LENGTH)
        self.scorer.share_prompts = bool(share)
        self.harness = HFLM(
            pretrained=model, tokenizer=tokenizer, backend="causal", device="cpu", batch_size=BATCH, max_length=LENGTH
        )
        self.few = items[:2]

    def warm_up(self) -> None:
        """Ask two items: what happens once happens now."""
        self.ask_some(self.few)

    def ask(self) -> None:
        """Ask the next part."""
        self.ask_some(next(self.parts))

    def ask_some(self, items: list[Item]) -> None:
        """Ask items and keep the values."""
        keys = [(item.id, choice) for item in items for choice in range(len(item.choices))]
        if self.share is None:
            pairs = [(item.cloze, f" {choice}") for item in items for choice in item.choices]
            requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
            values = [value for value, _ in self.harness.loglikelihood(requests, disable_tqdm=True)]
        else:
            values = list(chain(*(verdict.scores for verdict in self.scorer.score(self.model, items))))
        self.values |= dict(zip(keys, values, strict=True))


def check(values: dict[tuple[str, int], float], others: dict[str, dict[tuple[str, int], float]]) -> None:
    """Refuse to compare different computations.

    Raises:
        RuntimeError: log-likelihoods differ by more than rounding.
    """
    for name, found in others.items():
        largest = max(abs(value - found[key]) for key, value in values.items())
        print(f"largest difference to {name}: {largest:.1e} nats")
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
