"""Loading and saving of models: every failure is one clear sentence, every saved folder is whole and ordinary."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    MambaConfig,
    PreTrainedTokenizerFast,
)

from cpl_ray.config import Config
from cpl_ray.errors import ConfigError
from cpl_ray.model import item_max_length, load_model, load_tokenizer, model_max_length, save_model
from cpl_ray.model_source import local_source


def llama_config(*, tied: bool = False) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
    )


def tokenizer(**special: str) -> PreTrainedTokenizerFast:
    words = ["<end>", "<pad>", "what", "is", "it", "<unk>"]
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", **special)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_model(LlamaForCausalLM(llama_config()), tokenizer(eos_token="<end>"), tmp_path / "model")
    return tmp_path / "model"


def test_model_and_tokenizer_come_back_as_saved(folder: Path) -> None:
    torch.manual_seed(0)
    original = LlamaForCausalLM(llama_config())
    loaded = load_model(folder)
    assert not loaded.training
    for name, weight in original.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name]), name
    words = load_tokenizer(Config(model=str(folder)))
    assert words("what is it", add_special_tokens=False).input_ids == [2, 3, 4]


def test_dtype_is_the_one_asked_for(folder: Path) -> None:
    assert load_model(folder, dtype="bfloat16").dtype == torch.bfloat16
    assert load_model(folder, dtype="float32").dtype == torch.float32


def test_tokenizer_without_pad_token_takes_its_end_token(folder: Path) -> None:
    assert load_tokenizer(Config(model=str(folder))).pad_token == "<end>"


def test_tokenizer_with_pad_token_keeps_it(folder: Path) -> None:
    tokenizer(eos_token="<end>", pad_token="<pad>").save_pretrained(folder)
    assert load_tokenizer(Config(model="elsewhere"), folder).pad_token == "<pad>"


def test_tokenizer_without_pad_and_end_token_is_left_alone(folder: Path) -> None:
    for file in folder.glob("*token*"):
        file.unlink()
    tokenizer().save_pretrained(folder)
    words = load_tokenizer(Config(model=str(folder)))
    assert words("what is", add_special_tokens=False).input_ids == [2, 3]


@pytest.mark.parametrize("model", ["/no/such/folder", "./nothing", "~/nothing-here", "runs/a/b", "bad id"])
def test_missing_folder_is_named_without_asking_the_hub(model: str) -> None:
    for attempt in (lambda: load_model(model), lambda: load_tokenizer(Config(model=model))):
        with pytest.raises(ConfigError, match="there is no folder") as caught:
            attempt()
        assert model in str(caught.value)


def test_path_below_an_existing_folder_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert local_source("runs/demo") is None
    Path("runs").mkdir()
    with pytest.raises(ConfigError, match="there is no folder 'runs/demo'"):
        local_source("runs/demo")


def test_relative_folder_becomes_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert local_source("model") == folder


def test_unreachable_hub_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co' to load the files\nmore")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", unreachable)  # it is asked first, and would retry
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", unreachable)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", unreachable)
    for attempt in (lambda: load_model("owner/name"), lambda: load_tokenizer(Config(model="owner/name"))):
        with pytest.raises(ConfigError, match=r"'owner/name' is no local folder.*couldn't connect") as caught:
            attempt()
        assert "more" not in str(caught.value)


def test_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"holds no \*\.safetensors"):
        load_model(folder)


def test_pickled_weights_are_refused(folder: Path) -> None:
    state = load_model(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="can run code"):
        load_model(folder)


def test_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        load_model(tmp_path)


def test_file_instead_of_folder(folder: Path) -> None:
    with pytest.raises(ConfigError, match="is a file"):
        load_model(folder / "model.safetensors")


def test_folder_without_tokenizer(folder: Path) -> None:
    for file in folder.glob("*token*"):
        file.unlink()
    with pytest.raises(ConfigError, match="tokenizer"):
        load_tokenizer(Config(model=str(folder)))


def test_damaged_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(ConfigError, match="cannot be loaded as a causal language model"):
        load_model(folder)


def test_damaged_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json|JSON"):
        load_model(folder)


def test_weights_of_another_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 16}))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_model(folder)


def test_model_without_head_is_refused_instead_of_getting_a_random_one(tmp_path: Path) -> None:
    LlamaModel(llama_config()).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"lacks 1 weights.*lm_head\.weight"):
        load_model(tmp_path)


def test_masked_language_model_is_refused(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="BertForMaskedLM, not a causal language model"):
        load_model(tmp_path)


def test_tied_weights_are_stored_once_and_come_back_tied(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(llama_config(tied=True))
    gathered = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert "lm_head.weight" in gathered
    save_model(model, tokenizer(eos_token="<end>"), tmp_path / "m", state_dict=gathered)
    assert "lm_head.weight" in gathered, "the caller's dictionary was altered"
    with safe_open(tmp_path / "m" / "model.safetensors", "pt") as stored:
        assert sum("lm_head" in name or "embed" in name for name in stored.keys()) == 1  # noqa: SIM118
    loaded = load_model(tmp_path / "m")
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


def test_given_state_is_saved_instead_of_the_models_own(tmp_path: Path) -> None:
    model = LlamaForCausalLM(llama_config())
    state = {name: torch.full_like(weight, 0.5) for name, weight in model.state_dict().items()}
    for parameter in model.parameters():  # as under ZeRO-3, where the module holds nothing
        parameter.data = torch.empty(0)
    save_model(model, tokenizer(eos_token="<end>"), tmp_path / "m", state_dict=state)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert all(torch.equal(weight, torch.full_like(weight, 0.5)) for weight in plain.parameters())


def test_generation_settings_are_kept_even_those_transformers_refuses_to_save(tmp_path: Path) -> None:
    model = LlamaForCausalLM(llama_config())
    model.generation_config.temperature = 0.6  # without do_sample: many published models have it
    model.generation_config.eos_token_id = [0, 3]
    with pytest.raises(ValueError, match="temperature"):
        model.save_pretrained(tmp_path / "plain")
    save_model(model, tokenizer(eos_token="<end>"), tmp_path / "m")
    kept = load_model(tmp_path / "m").generation_config
    assert (kept.temperature, kept.eos_token_id) == (0.6, [0, 3])
    assert model.generation_config.temperature == 0.6


def test_failed_save_leaves_the_older_folder_and_no_rest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    words = tokenizer(eos_token="<end>")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(words, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(LlamaForCausalLM(llama_config()), words, folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_longest_sequence_is_the_configurations_then_the_tokenizers(folder: Path) -> None:
    words = tokenizer(eos_token="<end>")
    assert model_max_length(llama_config(), words) == 64
    assert model_max_length(GPT2Config(n_positions=48), words) == 48
    silent = MambaConfig()
    words.model_max_length = 77
    assert model_max_length(silent, words) == 77
    words.model_max_length = int(1e30)
    assert model_max_length(silent, words) == 2048


def test_item_length_beyond_the_model_is_refused() -> None:
    words = tokenizer(eos_token="<end>")
    assert item_max_length(Config(model="m"), llama_config(), words) == 64
    assert item_max_length(Config.model_validate({"model": "m", "data": {"max_length": 9}}), llama_config(), words) == 9
    with pytest.raises(ConfigError, match=r"data\.max_length: 65 .* 64"):
        item_max_length(Config.model_validate({"model": "m", "data": {"max_length": 65}}), llama_config(), words)
