"""Every configuration that the project ships loads, and the presets are those of the reference experiments."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from cpl_ray.config import Config
from cpl_ray.items import parse_row
from cpl_ray.loading import load_config
from cpl_ray.notices import notices

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "configs").rglob("*.yaml"))
PRESETS = sorted((ROOT / "configs" / "paper").glob("*.yaml"))
RATES = {"qwen2.5-1.5b": 1e-7, "qwen2.5-3b": 2e-8, "qwen2.5-7b": 1e-7, "llama-3.2-1b": 1e-7, "llama-3.2-3b": 2e-8}
SETS = ("mmlu", "medqa", "arc_c", "csqa")


def name_of(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_loads(path: Path) -> None:
    config = load_config(path, [])
    assert isinstance(config, Config)
    # a shipped file is an example: no key in it may be without effect
    assert notices(config) == []


def test_presets_are_five_models_by_four_sets() -> None:
    assert {path.stem for path in PRESETS} == {f"{model}_{name}" for model in RATES for name in SETS}


@pytest.mark.parametrize("path", PRESETS, ids=name_of)
def test_preset_is_the_reference_setting(path: Path) -> None:
    model, name = (
        path.stem.rsplit("_", 1) if not path.stem.endswith("arc_c") else (path.stem[: -len("_arc_c")], "arc_c")
    )
    config = load_config(path, [])
    size = model.split("-")[-1]
    assert config.model.lower().endswith(f"-{size}-instruct")
    assert config.data.items == f"data/paper/{name}.jsonl"
    assert config.optimizer.name == "sgd"
    assert config.optimizer.lr == RATES[model]
    assert config.optimizer.momentum == config.optimizer.weight_decay == 0.0
    assert config.global_batch_size == 1
    train = config.train
    assert (train.rule, train.refresh, train.epochs, train.dtype) == ("cpl", "epoch", 25, "float32")
    assert (train.shuffle, train.max_grad_norm, train.schedule, train.warmup_steps) == (False, None, "constant", 0)
    assert (config.assess.scorer, config.prompt.chat, config.prompt.template) == ("letter_logit", True, None)


def test_presets_differ_only_in_model_rate_and_set() -> None:
    def common(path: Path) -> dict[str, Any]:
        tree = yaml.safe_load(path.read_text())
        del tree["model"], tree["data"]["items"], tree["optimizer"]["lr"], tree["tracking"]["model_name"]
        return tree

    first = common(PRESETS[0])
    assert all(common(path) == first for path in PRESETS)


def test_published_prompts_become_items(tmp_path: Path) -> None:
    prompts = {
        "mmlu": "Question: Why {so}?\nOptions:\nA: one\nB: two\nC: three\nD: four\n\nPlease reply with only a letter.",
        "medqa": "Question: Two\n\nlines?\nOptions:\nA: B: x\nB: 2\nC: 3\nD: E\nPlease answer strictly.",
        "arc_c": "Question: q?\nOptions:\nA: 1\nB: 2\nC: 3\nD: 4\n\nPlease reply with only A, B, C, or D.",
        "csqa": "Question: q?\nOptions:\nA: 1\nB: 2\nC: 3\nD: 4\n\nPlease reply with only A, B, C, or D.",
    }
    data = tmp_path / "clone" / "data"
    data.mkdir(parents=True)
    for name, prompt in prompts.items():
        for part, label in (("correct", "A"), ("wrong", "D")):
            row = json.dumps({"question": prompt.replace("?", f" {part}?"), "label": label})
            (data / f"{name}_{part}_Qwen2.5-1.5B-Instruct.jsonl").write_text(row + "\n")
    script = runpy.run_path(str(ROOT / "examples" / "paper" / "build.py"))
    assert script["build"](tmp_path / "clone", tmp_path / "out") == dict.fromkeys(prompts, 2)
    rows = [json.loads(line) for line in (tmp_path / "out" / "medqa.jsonl").read_text().splitlines()]
    assert [row["answer"] for row in rows] == [0, 3]
    assert rows[0]["question"] == "Two\n\nlines correct?"
    assert rows[0]["choices"] == ["B: x", "2", "3", "E"]
    item = parse_row(rows[1], format="auto", columns={}, row_number=1, default_id="x")
    assert (item.kind, item.target) == ("multiple_choice", "E")
    with pytest.raises(ValueError, match="no question with four options"):
        script["item"]({"question": "Question: q?", "label": "A"}, "x")
