"""The maker of the demo's base model: it knows its share and not the rest, and the same seed gives the same weights."""

import json
import random
import string
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from cpl_ray.config import DataConfig, PromptConfig
from cpl_ray.encoding import Encoder
from cpl_ray.errors import ConfigError
from cpl_ray.predict import Scorer
from cpl_ray.reading import read_items
from pipelines.base_model import Recipe, make_base_model

SMALL = Recipe(hidden_size=48, intermediate_size=96, steps=60, batch_size=40, lr=1e-2, initializer_range=0.05)


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    """Forty facts about invented places."""
    chooser = random.Random(3)
    names = ["".join(chooser.choices(string.ascii_lowercase, k=6)).title() for _ in range(80)]
    path = tmp_path / "facts.jsonl"
    rows = [{"cloze": f"The capital of {a} is", "answer": b} for a, b in zip(names[:40], names[40:], strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_it_knows_its_share_and_not_the_rest(facts: Path, tmp_path: Path) -> None:
    made = make_base_model(facts, tmp_path / "base", known_share=0.75, seed=0, recipe=SMALL)
    assert (made.num_known, made.num_other) == (30, 10)
    assert made.known_answered >= 29
    assert made.other_answered <= 1

    # the saved folder, asked by the scorer, says the same
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert tokenizer.pad_token_id is not None
    assert tokenizer.eos_token_id is not None
    items = read_items(str(facts), DataConfig(), name="facts").items
    encoder = Encoder(
        tokenizer, scorer="exact_match", prompt=PromptConfig(), max_length=64, over_long="reject", append_eos=True
    )
    verdicts = Scorer(tokenizer, encoder, name="exact_match", batch_size=16, max_new_tokens=8).score(model, items)
    assert sum(verdict.correct for verdict in verdicts) == made.known_answered + made.other_answered


def test_same_seed_same_weights_whatever_happened_before(facts: Path, tmp_path: Path) -> None:
    few = Recipe(hidden_size=48, intermediate_size=96, steps=3, batch_size=40)
    weights = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)
        threads = torch.get_num_threads()
        make_base_model(facts, tmp_path / f"base{number}", known_share=0.75, seed=seed, recipe=few)
        assert torch.get_num_threads() == threads
        assert torch.initial_seed() == number
        weights.append(load_file(tmp_path / f"base{number}" / "model.safetensors"))
    first, again, other = weights
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_side_without_facts_is_refused(facts: Path, tmp_path: Path, share: float) -> None:
    with pytest.raises(ConfigError, match=f"known_share {share:g} of 40 facts"):
        make_base_model(facts, tmp_path / "base", known_share=share, recipe=SMALL)
    assert not (tmp_path / "base").exists()
