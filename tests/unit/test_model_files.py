"""Models that cannot be used: said before anything is loaded, with the key or the file that is meant."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cpl_ray.config import Config
from cpl_ray.encoding import Encoder
from cpl_ray.errors import ConfigError
from cpl_ray.items import Item, Message
from cpl_ray.model import load_settings, load_tokenizer
from pipelines.checks import check_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "model"
    settings = LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(settings).save_pretrained(place)
    words().save_pretrained(place)
    return place


def words(chat: str | None = None) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(["<end>", "what", "is", "it", "hello", "<unk>"])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", chat_template=chat)


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def custom(folder: Path) -> None:
    change(
        folder / "config.json", model_type="mine", auto_map={"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}
    )


SETTINGS: list[tuple[Callable[[Path], Any], tuple[str, ...]]] = [
    (custom, ("trust_remote_code=true", "if you trust it")),
    (lambda folder: change(folder / "config.json", model_type="mine"), ("mine", "transformers")),
    (lambda folder: (folder / "config.json").write_text("{}"), ("model_type",)),
    (lambda folder: (folder / "config.json").write_text("[]"), ("config.json",)),
    (lambda folder: (folder / "config.json").write_text("{"), ("config.json",)),
]


@pytest.mark.parametrize(("harm", "said"), SETTINGS)
def test_settings_of_no_known_model(folder: Path, harm: Callable[[Path], Any], said: tuple[str, ...]) -> None:
    config = Config(model=str(folder))
    assert check_model(config) == ([], [])
    load_settings(config)
    harm(folder)
    (problem,), _ = check_model(config)
    assert all(word in problem for word in said), problem
    with pytest.raises(ConfigError) as caught:
        load_settings(config)
    assert str(folder) in str(caught.value)
    if harm is custom:
        assert all(word in str(caught.value) for word in said)
        assert check_model(Config(model=str(folder), trust_remote_code=True)) == ([], [])


def head(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"x", "cut short"),
        (b"", "cut short"),
        (b"\xff" * 64, "no safetensors file"),
        (head(b"nothing"), "head cannot be read"),
        (head(b"[1]"), "head cannot be read"),
        (head(b'{"a": {"data_offsets": [0, "x"]}}'), "head cannot be read"),
        (head(b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}') + b"\0" * 15, "its head says"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n", "git lfs pull"),
    ],
)
def test_weights_that_are_none(folder: Path, content: bytes, said: str) -> None:
    (folder / "model.safetensors").write_bytes(content)
    (problem,), _ = check_model(Config(model=str(folder)))
    assert "model.safetensors" in problem
    assert said in problem


def test_files_of_an_index_that_are_missing(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (problem,), _ = check_model(Config(model=str(folder)))
    assert "'model-00002.safetensors'" in problem
    (folder / "model.safetensors.index.json").write_text("{}")
    assert "weight_map" in check_model(Config(model=str(folder)))[0][0]


@pytest.mark.parametrize("length", ["x", True, [8], -1, float("nan")])
def test_a_longest_length_that_is_none(folder: Path, length: object) -> None:
    change(folder / "tokenizer_config.json", model_max_length=length)
    with pytest.raises(ConfigError, match=r"model_max_length in tokenizer_config\.json is") as caught:
        load_tokenizer(Config(model=str(folder)))
    assert check_model(Config(model=str(folder)))[0] == [str(caught.value).replace("model ", "model: ", 1)]


def test_an_adapter_beside_the_model_is_refused_by_all(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    config = Config(model=str(folder))
    (problem,), _ = check_model(config)
    for attempt in (lambda: load_settings(config), lambda: load_tokenizer(config)):
        with pytest.raises(ConfigError, match=r"adapter_config\.json.*merge it first") as caught:
            attempt()
        assert str(caught.value) == problem


def encoder(chat: str) -> Encoder:
    config = Config.model_validate({"model": "m", "prompt": {"chat": True}})
    return Encoder.of(config, words(chat), scorer="choice_loglik", max_length=64)


ASKED = Item("a", "multiple_choice", "what is it", ("what", "it"), 0, "what")
TURNS = Item("b", "chat", target="it", messages=(Message("user", "what is"),))


@pytest.mark.parametrize("item", [ASKED, TURNS], ids=["question", "chat"])
@pytest.mark.parametrize("chat", ["hello", "{% for m in messages %}{{ m.role }} hello {% endfor %}"])
def test_a_chat_template_that_drops_the_question(chat: str, item: Item) -> None:
    with pytest.raises(ConfigError, match="does not show the user's words"):
        encoder(chat).training(item)


@pytest.mark.parametrize("item", [ASKED, TURNS], ids=["question", "chat"])
def test_a_chat_template_that_shows_it(item: Item) -> None:
    shown = "{% for m in messages %}{{ m.content | trim }} hello {% endfor %}"
    assert encoder(shown).training(item).target_ids
