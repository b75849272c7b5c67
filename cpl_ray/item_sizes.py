"""How long a run's items are in tokens: encoded as in training where that can be done here, estimated where not."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import AutoTokenizer, PretrainedConfig

from cpl_ray.assessment import read_assessment, resolve_scorer
from cpl_ray.cells import RowError
from cpl_ray.config import Config
from cpl_ray.encoding import Encoder
from cpl_ray.errors import ConfigError, UserError
from cpl_ray.items import Item
from cpl_ray.model import item_max_length, load_tokenizer
from cpl_ray.model_source import local_source
from cpl_ray.reading import read_items
from cpl_ray.workload import ItemSize

ASSUMED_ITEMS = 1000
ASSUMED_TOKENS = 256
CHARACTERS_PER_TOKEN = 4
"""Of English text, roughly; used where there is no tokenizer."""


@dataclass
class RunItems:
    """The items of a run by what is done with them, and what had to be assumed about them."""

    injection: list[ItemSize] = field(default_factory=list)
    mastered: list[ItemSize] = field(default_factory=list)
    held_out: int = 0
    """Items of M validation."""
    notes: list[str] = field(default_factory=list)


def given_items(config: Config, number: int, tokens: int, known: float) -> RunItems:
    """Return so many items of so many tokens each, a single one of them the answer's."""
    found = RunItems()
    _divide(config, [ItemSize(max(1, tokens - 1), 1)] * number, known, found)
    found.notes.append(f"{known:.0%} of them are taken to be known already (--known); cpl assess finds out")
    return found


def read_run_items(config: Config, settings: PretrainedConfig, known: float) -> RunItems:
    """Return the sizes of the items that the configuration names.

    Args:
        config: the run.
        settings: of the model, for its longest sequence.
        known: share of `data.items` that the base model is taken to answer rightly.

    Raises:
        UserError: there are none, or they cannot be read.
    """
    found = RunItems()
    data = config.data
    if data.assessment is not None:
        parts = read_assessment(data.assessment).parts
        sets = {name: [row.item for row in parts.get(name, [])] for name in ("injection_train", "mastered_train")}
        sizes = _sizes(config, settings, sets, found)
        found.injection, found.mastered = sizes["injection_train"], sizes["mastered_train"]
        found.held_out = len(parts.get("mastered_validation", []))
    elif data.mastered is not None and data.injection is not None:
        sources = {"injection": data.injection, "mastered": data.mastered}
        sets = {name: read_items(source, data, name=f"data.{name}").items for name, source in sources.items()}
        sizes = _sizes(config, settings, sets, found)
        found.injection, found.mastered = sizes["injection"], sizes["mastered"]
    elif data.items is not None:
        items = read_items(data.items, data, name="data.items").items
        sizes = _sizes(config, settings, {"items": items}, found)
        found.notes.append(f"{known:.0%} of data.items are taken to be known already (--known); cpl assess finds out")
        _divide(config, sizes["items"], known, found)
    else:
        raise UserError("the configuration names no items")
    if not found.injection or not found.mastered:
        raise UserError("no items are left to inject or to protect")
    return found


def _divide(config: Config, sizes: Sequence[ItemSize], known: float, found: RunItems) -> None:
    """Share items out as assessment and split will: so many to each part, by chance which."""
    mixed = random.Random(config.split.seed).sample(list(sizes), len(sizes))
    num_mastered = min(max(1, round(known * len(mixed))), max(1, len(mixed) - 1))
    mastered, injection = mixed[:num_mastered], mixed[num_mastered:] or mixed[:1]
    found.held_out = round(config.split.mastered_validation * num_mastered)
    tested = round(config.split.mastered_test * num_mastered)
    found.mastered = mastered[: max(1, num_mastered - found.held_out - tested)]
    found.injection = injection[: max(1, round(len(injection) * (1 - config.split.injection_held_out)))]


def _sizes(
    config: Config, settings: PretrainedConfig, sets: dict[str, list[Item]], found: RunItems
) -> dict[str, list[ItemSize]]:
    tokenizer = _tokenizer(config)
    every = [item for items in sets.values() for item in items]
    scorer = resolve_scorer(config.assess.scorer, every)
    if tokenizer is None:
        found.notes.append(f"no tokenizer here: tokens are estimated, {CHARACTERS_PER_TOKEN} characters each")
        return {name: [_estimated(item, scorer) for item in items] for name, items in sets.items()}
    longest = item_max_length(config, settings, tokenizer)
    encoder = Encoder.of(config, tokenizer, scorer=scorer, max_length=longest)
    return {name: [_encoded(item, encoder, scorer) for item in items] for name, items in sets.items()}


def _encoded(item: Item, encoder: Encoder, scorer: str) -> ItemSize:
    try:
        made = encoder.training(item)
    except RowError:  # it will be set aside or has an image: its length hardly matters among all
        return _estimated(item, scorer)
    return ItemSize(len(made.context_ids), len(made.target_ids), _requests(item, scorer))


def _estimated(item: Item, scorer: str) -> ItemSize:
    asked = item.prompt or item.cloze or item.question or " ".join(message.content for message in item.messages)
    text = " ".join((asked, *item.choices))
    target = 1 if scorer == "letter_logit" else max(1, len(item.target) // CHARACTERS_PER_TOKEN)
    return ItemSize(max(1, len(text) // CHARACTERS_PER_TOKEN), target, _requests(item, scorer))


def _requests(item: Item, scorer: str) -> int:
    return len(item.choices) or 1 if scorer.startswith("choice_loglik") else 1


def _tokenizer(config: Config) -> Any:
    """Return the tokenizer if it is on this machine, else None: a plan downloads nothing but a config.json."""
    try:
        if local_source(config.model) is not None:
            return load_tokenizer(config)
        return AutoTokenizer.from_pretrained(
            config.model,
            revision=config.model_revision or "main",
            trust_remote_code=config.trust_remote_code,
            local_files_only=True,
        )
    except (ConfigError, OSError, ValueError):
        return None
