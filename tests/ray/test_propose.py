"""`cpl propose` end to end: what it writes is what the base model says, and nothing that is to be injected."""

import json
from pathlib import Path

import pytest

from cpl_ray.config import Config
from cpl_ray.items import Item
from cpl_ray.loading import load_config
from cpl_ray.model import load_model, load_tokenizer
from cpl_ray.predict import Scorer
from cpl_ray.reading import read_items
from tests.oracle.quiz import quiz, save_quiz
from tests.ray.conftest import World, write_rows

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
CONFIG = """\
model: model
data: {items: new.jsonl}
assess: {batch_size: 4}
propose: {items: 12, candidates: 60, held_out: 0.25}
cluster: {num_workers: 1}
tracking: {enabled: false}
run: {name: proxy}
"""


def read(path: Path, config: Config) -> list[Item]:
    return read_items(str(path), config.data, name="data.mastered", keep_duplicates=True).items


def test_every_item_is_the_models_own_and_none_is_to_be_injected(tmp_path: Path) -> None:
    save_quiz(tmp_path / "model")
    taken = list(quiz())[::2]
    write_rows(tmp_path / "new.jsonl", [{"question": question, "answer": "another"} for question in taken])
    (tmp_path / "c.yaml").write_text(CONFIG)
    out, said = World(tmp_path).cpl("propose", "c.yaml", "--json")
    result = json.loads(out)
    folder = tmp_path / "runs" / "proxy"
    assert json.loads((folder / "proposed.json").read_text()).items() <= result.items()
    config = load_config(tmp_path / "c.yaml", [f"model={tmp_path / 'model'}"])
    train, held_out = read(folder / "proposed.jsonl", config), read(folder / "proposed_held_out.jsonl", config)
    items = train + held_out
    assert len(items) == result["kept"] > 4
    assert len(held_out) == result["held_out"] > 0
    assert len({item.question_key() for item in items}) == len(items)
    # the model asks about what it was taught, so many of its questions had to be kept out
    assert result["rejected"]["question kept out"] > 0
    assert [item.prompt for item in items for question in taken if question in (item.prompt or "")] == []
    assert sum(any(question in (item.prompt or "") for question in quiz()) for item in items) >= len(items) // 2
    words = load_tokenizer(config)
    asker = Scorer.of(config, words, name="exact_match", max_length=96)
    verdicts = asker.score(load_model(config.model), items)
    assert [verdict for verdict in verdicts if not verdict.correct] == []
    for word in ("data.mastered=", "data.mastered_held_out=", "data.injection=new.jsonl", "run.name=proxy-run"):
        assert word in result["command"]
    # the configuration that is printed is one that can be used
    brought = load_config(tmp_path / "c.yaml", result["command"].split()[3:])
    assert [brought.data.mastered, brought.data.injection] == [str(folder / "proposed.jsonl"), "new.jsonl"]
    assert "60 of 60 prompts" in said
