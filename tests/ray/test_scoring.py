"""Scoring on a Ray cluster of two CPUs: the verdicts of one process, all actors at work, errors kept per item."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from cpl_ray.assessment import Verdict
from cpl_ray.config import Config
from cpl_ray.encoding import Encoder
from cpl_ray.errors import ConfigError
from cpl_ray.items import Item
from cpl_ray.model import load_model, load_tokenizer, save_model
from cpl_ray.predict import Scorer
from cpl_ray.scoring import _block_rows, score_apart, score_items

ROOT = Path(__file__).parents[2]
LENGTH = 96


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Start Ray with as many CPUs as the pool will take, so that anything else that needs one would hang."""
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=200 * 1024**2,
        logging_level=logging.WARNING,
        runtime_env={"env_vars": environment},
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(BPE({letter: index for index, letter in enumerate([*letters, "<eos>"])}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=LENGTH,
            initializer_range=0.3,
        )
    )
    model.model.embed_tokens.weight.data[ord("~") - ord("!")] = float("nan")  # items with "~" score NaN
    place = tmp_path_factory.mktemp("scoring") / "model"
    save_model(model, PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>"), place)
    return place


def config(model: str, **sections: dict[str, object]) -> Config:
    return Config.model_validate(
        {"model": model, "cluster": {"num_workers": 2}, "assess": {"batch_size": 4}, **sections}
    )


def questions(num: int) -> list[Item]:
    options = ("yes", "no", "perhaps")
    return [
        Item(f"q{i}", "multiple_choice", f"is {i} a {'very ' * (i % 7)}nice number?", options, i % 3, options[i % 3])
        for i in range(num)
    ]


def in_this_process(settings: Config, folder: Path, scorer: str, items: list[Item]) -> list[object]:
    words = load_tokenizer(settings, folder)
    encoder = Encoder(
        words,
        scorer=scorer,
        prompt=settings.prompt,
        max_length=settings.data.max_length or LENGTH,
        over_long=settings.data.over_long,
        append_eos=False,
    )
    verdicts = Scorer(words, encoder, name=scorer, batch_size=4).score(load_model(folder), items)
    return [(v.id, v.correct, v.prediction, v.error, pytest.approx(v.scores, abs=1e-4)) for v in verdicts]


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_verdicts_equal_those_of_one_process_and_every_item_has_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    settings = config("model", data={"over_long": "reject"})
    options = ("a", "b")
    bad = [
        Item("nan", "multiple_choice", "what ~ is", options, 0, "a"),
        Item("long", "multiple_choice", "what " * LENGTH, options, 0, "a"),
    ]
    items = [*questions(40), *bad, *[Item(f"r{i}", "multiple_choice", f"{i}?", options, 1, "b") for i in range(3)]]
    seen: list[tuple[int, int]] = []

    verdicts = score_items(
        items,
        config=settings,
        scorer="choice_loglik",
        model_path="model",  # relative: workers have another working folder
        progress=lambda done, total: seen.append((done, total)),
    )

    assert list(verdicts) == [item.id for item in items]
    assert [(v.id, v.correct, v.prediction, v.error, v.scores) for v in verdicts.values()] == in_this_process(
        settings, folder, "choice_loglik", items
    )
    assert verdicts["nan"].error == "non-finite scores"
    assert "tokens" in str(verdicts["long"].error)
    assert sum(v.error is not None for v in verdicts.values()) == 2
    assert seen[-1] == (45, 45)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(seen) > 1


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_generated_answers(folder: Path) -> None:
    settings = config(str(folder))
    items = [Item(f"c{i}", "cloze", target="x", cloze=f"the {i}th letter is") for i in range(5)]
    verdicts = score_items(items, config=settings, scorer="exact_match", model_path=str(folder))
    assert [(v.id, v.correct, v.prediction, v.error, v.scores) for v in verdicts.values()] == in_this_process(
        settings, folder, "exact_match", items
    )


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_model_that_cannot_be_loaded_is_one_clear_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        score_items(questions(4), config=config("m"), scorer="choice_loglik", model_path=str(tmp_path / "missing"))
    chatty = config(str(folder), prompt={"chat": True})
    with pytest.raises(ConfigError, match="no chat template"):
        score_items(questions(4), config=chatty, scorer="choice_loglik", model_path=str(folder))


class Fragile:
    """Fails on a whole batch that holds the item "bad"."""

    def score(self, items: list[Item]) -> list[Verdict]:
        if any(item.id == "bad" for item in items):
            raise RuntimeError("out of memory\nat length")
        return [Verdict(item.id, correct=True, prediction="x", margin=1.0) for item in items]


def test_an_item_that_breaks_its_batch_costs_only_itself() -> None:
    items = [replace(questions(1)[0], id=name) for name in ("a", "bad", "b")]
    verdicts = score_apart(Fragile().score, items)
    assert [(verdict.id, verdict.correct, verdict.error) for verdict in verdicts] == [
        ("a", True, None),
        ("bad", False, "RuntimeError: out of memory"),
        ("b", True, None),
    ]


def test_no_items_need_no_cluster() -> None:
    assert score_items([], config=config("m"), scorer="choice_loglik", model_path="m") == {}


def test_equal_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="equal ids"):
        score_items(questions(1) * 2, config=config("m"), scorer="choice_loglik", model_path="m")


@pytest.mark.parametrize("num_items", [1, 2, 3, 17, 100, 5000])
@pytest.mark.parametrize("num_actors", [1, 2, 8])
def test_every_actor_gets_a_block(num_items: int, num_actors: int) -> None:
    rows = _block_rows(num_items, min(num_actors, num_items), batch_size=16)
    assert -(-num_items // rows) >= min(num_actors, num_items) // 2
    assert rows >= 1
    if num_items >= 100:
        assert -(-num_items // rows) >= num_actors
