"""The list of studies, its help, and settings that leave nothing to study."""

from pathlib import Path
from typing import Any

import pytest

from cpl_ray.config import Config
from cpl_ray.errors import ConfigError
from cpl_ray.keys import all_keys
from cpl_ray.loading import load_config
from pipelines.studies import STUDIES
from pipelines.study import study

FILES = Path(__file__).resolve().parents[2] / "pipelines" / "studies"
DOCS = FILES.parents[1] / "docs" / "studies.md"


def test_every_study_is_listed_explained_and_documented() -> None:
    files = {path.stem.replace("_", "-") for path in FILES.glob("*.py")} - {"--init--", "bench", "rounds"}
    assert set(STUDIES) == files
    assert {name: one.name for name, one in STUDIES.items()} == {name: name for name in STUDIES}
    sections = [line.removeprefix("## ") for line in DOCS.read_text().splitlines() if line.startswith("## ")]
    assert sorted(sections) == sorted(STUDIES)
    help_text = study.__doc__ or ""
    assert [name for name, one in STUDIES.items() if f"{name:<14} {one.line}" not in help_text] == []
    assert [one.line for one in STUDIES.values() if len(f"  {one.name:<14} {one.line}") > 78] == []  # would be broken


def test_every_setting_says_which_study_it_is_for() -> None:
    keys = {name: key for name, key in all_keys().items() if name.startswith("study.")}
    assert [name for name, key in keys.items() if not any(f"`{one}`" in key.doc for one in STUDIES)] == []


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("study.optimizer_rates={lion: [0.1]}", "'lion' is not one of sgd, momentum, adam, adamw"),
        ("study.optimizer_rates={adam: []}", "adam has no rate"),
        ("study.optimizer_rates={}", "study.optimizer_rates is empty"),
        ("study.optimizer_rates={adam: [0.1, 0.1]}", "0.1 stands in .* twice"),
        ("study.optimizer_rates={adam: [-1]}", "study.optimizer_rates"),
        ("study.mastered_sizes=[0]", "study.mastered_sizes"),
        ("study.mastered_batch_sizes=[]", "study.mastered_batch_sizes"),
        ("study.refreshes=[1, 1]", "1 stands in .* twice"),
        ("study.refreshes=[often]", "study.refreshes"),
        ("study.templates=[What]", r"study.templates: each must contain \{question\}; got 'What'"),
    ],
)
def test_bad_settings_are_refused(tmp_path: Path, override: str, words: str) -> None:
    (tmp_path / "c.yaml").write_text("model: m\ndata: {items: a.jsonl}\n")
    with pytest.raises(ConfigError, match=words):
        load_config(tmp_path / "c.yaml", [override])


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("optimizers", {}, "train.stop_at_learned is null"),
        (
            "optimizers",
            {"train": {"stop_at_learned": 0.9}, "split": {"mastered_validation": 0}},
            "M validation is empty",
        ),
        ("mastered-size", {"split": {"mastered_validation": 0}}, "the smallest mastered set is judged by it"),
        ("generalisation", {"study": {"paraphrases": "none.jsonl"}}, "none.jsonl cannot be read"),
        (
            "generalisation",
            {"study": {"templates": ["Q {question}"]}, "prompt": {"template": "Q {question}"}},
            "is prompt.template itself",
        ),
    ],
)
def test_what_leaves_nothing_to_study_is_refused_before_anything_runs(
    name: str, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        STUDIES[name].check(Config.model_validate({"model": "m", **settings}))


def test_sound_settings_pass() -> None:
    config = Config.model_validate({"model": "m", "train": {"stop_at_learned": 0.9}})
    for one in STUDIES.values():
        one.check(config)
