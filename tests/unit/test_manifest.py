"""The manifest of an assessment: how it was made, and which runs may use it."""

import json
from pathlib import Path
from typing import Any

import pytest

from cpl_ray.assessment import Parts, Row, read_assessment, write_assessment
from cpl_ray.config import Config
from cpl_ray.errors import ConfigError
from cpl_ray.items import Item
from cpl_ray.manifest import build_manifest, check_fits
from cpl_ray.split import SetAside

PARTS: Parts = {
    part: [Row(Item(id=f"{part}-{n}", kind="cloze", cloze=f"{part} {n} is", target="so"), None) for n in range(num)]
    for part, num in (("mastered_train", 4), ("mastered_test", 2), ("injection_train", 4))
}


def config_of(**changes: Any) -> Config:
    return Config.model_validate({"model": "org/model", "data": {"items": "facts.jsonl"}, **changes})


def manifest_of(config: Config, scorer: str = "exact_match") -> dict[str, Any]:
    aside = [SetAside("e", "error", "too long"), SetAside("c", "contradictory", "both")]
    return build_manifest(
        config, scorer=scorer, prompt_fingerprint="f", num_rows=12, num_rejected=2, set_aside=aside, letter_report={}
    )


def test_manifest_says_how_it_was_made(tmp_path: Path) -> None:
    config = config_of(model_revision="v1", split={"seed": 7, "mastered_test": 0.4})
    write_assessment(tmp_path / "a", PARTS, manifest_of(config))
    manifest = read_assessment(tmp_path / "a").manifest
    assert manifest["format_version"] == 1
    assert (manifest["model"], manifest["model_revision"], manifest["scorer"]) == ("org/model", "v1", "exact_match")
    assert (manifest["seed"], manifest["split"]["mastered_test"]) == (7, 0.4)
    assert manifest["sources"] == {"data.items": "facts.jsonl"}
    assert manifest["prompt"] == {"template": None, "chat": False}
    assert manifest["counts"] == {
        "rows_read": 12,
        "rejected": 2,
        "errors": 1,
        "contradictory": 1,
        "mastered": 6,
        "injection": 4,
    }
    assert [entry["id"] for entry in manifest["set_aside"]] == ["e", "c"]


def test_brought_sets_have_no_split() -> None:
    manifest = manifest_of(config_of(data={"mastered": "m.jsonl", "injection": "i.jsonl"}))
    assert manifest["brought"] is True
    assert manifest["split"] is None
    assert manifest["sources"] == {"data.mastered": "m.jsonl", "data.injection": "i.jsonl"}


def test_an_assessment_fits_its_own_run_whatever_is_trained() -> None:
    stored = json.loads(json.dumps(manifest_of(config_of())))
    check_fits(stored, config_of(train={"epochs": 3}), scorer="exact_match", prompt_fingerprint="f")
    check_fits(stored, config_of(assess={"permutations": 2}), scorer="exact_match", prompt_fingerprint="f")


@pytest.mark.parametrize(
    ("changes", "scorer", "fingerprint", "named"),
    [
        ({"model": "org/other"}, "exact_match", "f", "model is 'org/other' here and 'org/model' there"),
        ({"model_revision": "v2"}, "exact_match", "f", "model_revision is 'v2'"),
        ({}, "choice_loglik", "f", "scorer is 'choice_loglik'"),
        ({}, "exact_match", "g", "prompt_fingerprint is 'g'"),
        ({"prompt": {"chat": True}}, "exact_match", "f", "prompt is"),
        ({"assess": {"max_new_tokens": 5}}, "exact_match", "f", "'max_new_tokens': 5"),
    ],
)
def test_another_model_scorer_or_prompt_is_refused(
    changes: dict[str, Any], scorer: str, fingerprint: str, named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        check_fits(manifest_of(config_of()), config_of(**changes), scorer=scorer, prompt_fingerprint=fingerprint)


def test_a_local_model_is_the_same_under_another_spelling(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    stored = manifest_of(config_of(model=str(tmp_path / "model")))
    config = config_of(model=str(tmp_path / "model" / ".." / "model"))
    check_fits(stored, config, scorer="exact_match", prompt_fingerprint="f")
