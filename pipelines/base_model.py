"""`python -m pipelines.base_model`: train the small base model of the demo from scratch on a share of the facts.

The result is an ordinary Hugging Face folder that answers nearly all facts of that share and few of the others: what
it knows becomes the mastered set, what it does not know the injection set.
"""

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cpl_ray.batches import Batch, collate
from cpl_ray.config import DataConfig, PromptConfig
from cpl_ray.encoding import Encoded, Encoder
from cpl_ray.errors import ConfigError
from cpl_ray.items import Item
from cpl_ray.loss import IGNORE, supervised_cross_entropy
from cpl_ray.model import save_model
from cpl_ray.reading import read_items

MAX_LENGTH = 64
CHUNKS = 3
UNLIMITED = 100_000


@dataclass(frozen=True)
class Recipe:
    """Size and training of the base model; the defaults are those of the demo."""

    hidden_size: int = 96
    num_layers: int = 2
    num_heads: int = 4
    intermediate_size: int = 256
    initializer_range: float = 0.05
    """Wide on purpose: from the usual 0.02 the same model needs twice the steps."""
    steps: int = 120
    batch_size: int = 256
    lr: float = 3e-3
    weight_decay: float = 0.01
    warmup_steps: int = 20
    num_threads: int = 1
    """Sums depend on the number of threads, so it is fixed; more than one gain nothing at this size."""


@dataclass(frozen=True)
class Made:
    """What came out."""

    num_parameters: int
    num_known: int
    """Facts that were trained on."""
    known_answered: int
    """Of these, answered rightly."""
    num_other: int
    other_answered: int
    """Facts never trained on that it answers all the same."""
    loss: float
    """Mean loss per answer token of the last step."""


def make_base_model(
    facts: Path, folder: Path, *, known_share: float = 0.8, seed: int = 0, recipe: Recipe | None = None
) -> Made:
    """Train a Qwen2-shaped model on a seeded share of the facts and save it with its tokenizer.

    Args:
        facts: Items with `cloze` and `answer`; every answer is trained with the end token after it.
        folder: Where the model goes, written whole or not at all; an older folder is replaced.
        known_share: Share of the facts that is trained, in (0, 1).
        seed: Seed of the choice, the initial weights and the order.
        recipe: Size and training.

    Raises:
        ConfigError: the facts do not exist or `known_share` leaves nothing to train or nothing to inject.
    """
    recipe = recipe or Recipe()
    items = read_items(str(facts), DataConfig(), name="facts").items
    num_known = round(known_share * len(items))
    if not 0 < num_known < len(items):
        raise ConfigError(f"known_share {known_share:g} of {len(items)} facts leaves one side empty; give e.g. 0.8")
    chooser = random.Random(seed)
    order = sorted(items, key=lambda item: item.id)
    chooser.shuffle(order)
    tokenizer = _tokenizer(items)
    encoder = Encoder(
        tokenizer,
        scorer="exact_match",
        prompt=PromptConfig(),
        max_length=MAX_LENGTH,
        over_long="reject",
        append_eos=True,
    )
    encoded = [encoder.training(item) for item in order]
    known, other = encoded[:num_known], encoded[num_known:]

    threads = torch.get_num_threads()
    torch.set_num_threads(recipe.num_threads)
    try:
        model = _model(tokenizer, recipe, seed)
        loss = _train(model, known, recipe, chooser, tokenizer.pad_token_id)
        made = Made(
            num_parameters=sum(parameter.numel() for parameter in model.parameters()),
            num_known=len(known),
            known_answered=_num_answered(model, known, tokenizer.pad_token_id),
            num_other=len(other),
            other_answered=_num_answered(model, other, tokenizer.pad_token_id),
            loss=loss,
        )
    finally:
        torch.set_num_threads(threads)
    save_model(model, tokenizer, folder)
    return made


def _tokenizer(items: Sequence[Item]) -> Any:
    """Train a byte-level BPE of Qwen2's kind until each word is one token (numbers are spelt by digit).

    A model this small has no room to learn spelling as well.
    """
    from tokenizers import Tokenizer, models, trainers
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    special = ["<pad>", "<eos>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=UNLIMITED, special_tokens=special, initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator((f"{item.cloze} {item.target}" for item in items), trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    merges: Any = [tuple(pair) for pair in trained["merges"]]
    return Qwen2Tokenizer(
        vocab=trained["vocab"],
        merges=merges,
        unk_token="<eos>",
        eos_token="<eos>",
        pad_token="<pad>",
        model_max_length=MAX_LENGTH,
    )


def _model(tokenizer: Any, recipe: Recipe, seed: int) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        num_key_value_heads=recipe.num_heads,
        intermediate_size=recipe.intermediate_size,
        initializer_range=recipe.initializer_range,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    # the caller's own random numbers stay as they were
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config)


def _train(model: nn.Module, known: Sequence[Encoded], recipe: Recipe, chooser: random.Random, pad_id: int) -> float:
    """Train in place with AdamW, a short warm-up and a linear decay over the last 40 % of the steps.

    Returns:
        The mean loss per answer token of the last step.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.99), weight_decay=recipe.weight_decay)
    decay_from = 0.6 * recipe.steps
    num_batches = max(1, round(len(known) / recipe.batch_size))
    waiting: list[list[Encoded]] = []
    total = 0.0
    model.train()
    for step in range(recipe.steps):
        if not waiting:
            shuffled = list(known)
            chooser.shuffle(shuffled)
            waiting = [shuffled[start::num_batches] for start in range(num_batches)]
        rate = min(1.0, (step + 1) / recipe.warmup_steps)
        rate *= 1.0 - 0.95 * max(0.0, step - decay_from) / (recipe.steps - decay_from)
        optimizer.param_groups[0]["lr"] = recipe.lr * rate
        batches = _chunks(waiting.pop(), pad_id)
        num_targets = sum(batch.num_targets for batch in batches)
        optimizer.zero_grad()
        total = 0.0
        for batch in batches:
            loss = supervised_cross_entropy(_logits(model, batch), batch.labels) / num_targets
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return total


def _chunks(rows: Sequence[Encoded], pad_id: int) -> list[Batch]:
    """Split a batch into few passes of similar length: half of it would be padding otherwise."""
    by_length = sorted(rows, key=lambda row: len(row.context_ids) + len(row.target_ids))
    size = -(-len(by_length) // CHUNKS)
    return [collate(by_length[start : start + size], pad_id) for start in range(0, len(by_length), size)]


def _logits(model: nn.Module, batch: Batch) -> Tensor:
    logits: Tensor = model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, logits_to_keep=batch.positions
    ).logits
    return logits


@torch.no_grad()
def _num_answered(model: nn.Module, rows: Sequence[Encoded], pad_id: int) -> int:
    """Count the facts whose whole answer is the greedy continuation: every token the most likely one after the last."""
    model.eval()
    count = 0
    for batch in _chunks(rows, pad_id):
        chosen = _logits(model, batch).argmax(dim=-1)
        count += int(((chosen == batch.labels) | (batch.labels == IGNORE)).all(dim=1).sum())
    return count


def main() -> None:
    """Make the base model of the demo and print what it knows as JSON."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.base_model", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="folder to write the model to")
    parser.add_argument("--facts", type=Path, default=Path("examples/facts/facts.jsonl"))
    parser.add_argument("--known-share", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        made = make_base_model(
            arguments.facts, arguments.folder, known_share=arguments.known_share, seed=arguments.seed
        )
    except ConfigError as error:
        parser.exit(error.exit_code, f"{error}\n")
    print(json.dumps(asdict(made)))


if __name__ == "__main__":
    main()
