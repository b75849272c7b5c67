"""The model card: valid front matter, held-out first, nothing of this machine, and whole with half a result."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cpl_ray.card import base_model_name, write_card
from cpl_ray.config import Config, TrainConfig


def rate(count: int, of: int) -> dict[str, Any]:
    return {"count": count, "of": of, "share": count / of if of else None, "low": 0.01, "high": 0.234}


RESULT: dict[str, Any] = {
    "forgotten": {"in_set": rate(0, 200), "validation": rate(3, 80), "held_out": rate(2, 120)},
    "learned": rate(93, 97),
    "learned_held_out": None,
    "accuracy": {
        "injection_train": {"before": rate(0, 97), "after": rate(93, 97)},
        "mastered_test": {"before": rate(120, 120), "after": rate(118, 120)},
    },
    "collaborative_share": 0.5432,
    "moved_against": 0,
    "steps": 55,
}


def card(
    folder: Path, result: dict[str, Any], config: Config, manifest: dict[str, Any] | None = None
) -> tuple[Any, str]:
    """Write a card; return its front matter, parsed, and its text."""
    path = write_card(folder, result, config, manifest or {})
    assert path == folder / "README.md"
    _, head, body = path.read_text("utf-8").split("---\n", 2)
    return yaml.safe_load(head), body


def test_front_matter_and_tables(tmp_path: Path) -> None:
    head, body = card(tmp_path, RESULT, Config(model="Qwen/Qwen2.5-1.5B-Instruct"), {"scorer": "letter_logit"})
    assert head["base_model"] == "Qwen/Qwen2.5-1.5B-Instruct"
    assert head["library_name"] == "transformers"
    assert "collaborative-parameter-learning" in head["tags"]
    rows = [line for line in body.splitlines() if line.startswith("| ") and " % |" in line]
    assert rows[0] == "| forgotten, held-out | 2 of 120 | 1.7 % | 1.0 – 23.4 % |"
    assert rows[1] == "| learned | 93 of 97 | 95.9 % | 1.0 – 23.4 % |"
    assert not any(row.startswith("| learned, held-out") for row in rows)
    accuracy = [line for line in body.splitlines() if "(1.0 – 23.4 %)" in line]
    assert accuracy[0].startswith("| mastered, held-out")
    assert "| 120 | 100.0 % (1.0 – 23.4 %) | 98.3 % (1.0 – 23.4 %) |" in accuracy[0]
    assert "`letter_logit`" in body
    assert "54.3 %" in body
    assert "moved against the mastered gradient: 0 parameters" in body


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"learned": None, "forgotten": None, "accuracy": None},
        {"forgotten": {"held_out": {"count": 0, "of": 0, "share": None, "low": None, "high": None}}},
    ],
)
def test_a_card_without_measurements_says_so(tmp_path: Path, result: dict[str, Any]) -> None:
    _, body = card(tmp_path, result, Config(model="m"))
    assert "Not measured yet." in body
    assert "|---" not in body


def test_a_part_of_the_result_gives_a_part_of_the_table(tmp_path: Path) -> None:
    result = {"learned": {"count": 3, "of": 4}, "forgotten": {"in_set": rate(0, 0)}}
    _, body = card(tmp_path, result, Config(model="m"))
    assert "| learned | 3 of 4 | 75.0 % | – |" in body
    assert "forgotten, in-set" not in body


def test_plain_fine_tuning_is_called_so(tmp_path: Path) -> None:
    head, body = card(tmp_path, RESULT, Config(model="m", train=TrainConfig(rule="none")))
    assert "collaborative-parameter-learning" not in head["tags"]
    assert "plain fine-tuning" in body
    assert "collaborative share" not in body


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ({"name": "lora", "targets": ["q_proj"]}, "`lora` on `q_proj`, rank 16, alpha 32, dropout 0.05; merged"),
        ({"name": "osft", "frozen_share": 0.75}, "`osft` on all linear layers but the output head, the leading 75 %"),
    ],
)
def test_an_adapter_is_named(tmp_path: Path, adapter: dict[str, Any], said: str) -> None:
    _, body = card(tmp_path, RESULT, Config.model_validate({"model": "m", "adapter": adapter}))
    assert said in body
    assert "adapter" not in card(tmp_path, RESULT, Config(model="m"))[1]


def test_no_path_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "secret-place" / "base-model"
    base.mkdir(parents=True)
    monkeypatch.chdir(base.parent)
    for name in (str(base), "base-model", "./base-model", "../secret-place/base-model/"):
        assert base_model_name(name) == "base-model"
        head, body = card(tmp_path, RESULT, Config(model=name), {"model": name})
        assert head["base_model"] == "base-model"
        assert "secret-place" not in body
    monkeypatch.chdir(base)
    assert base_model_name(".") == "base-model"
    assert base_model_name("/gone/away/model") == "model"
    assert base_model_name("owner/name") == "owner/name"


def test_a_vision_language_model_is_loaded_with_its_processor(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"vision_config": {}}')
    head, text = card(tmp_path, {}, Config(model="org/model"))
    assert head["pipeline_tag"] == "image-text-to-text"
    assert "import AutoModelForImageTextToText, AutoProcessor" in text
    assert "AutoModelForCausalLM" not in text
