"""The methods of a comparison: what each name sets, and what is refused."""

from typing import Any

import pytest

from cpl_ray.config import Config
from cpl_ray.config_methods import MASTERED
from cpl_ray.contenders import BUILT_IN, contenders, reference_of
from cpl_ray.errors import ConfigError
from cpl_ray.space import with_point


def config(**compare: Any) -> Config:
    base: dict[str, Any] = {"model": "m", "data": {"items": "items.jsonl"}, "train": {"stop_at_learned": 0.9}}
    return Config.model_validate(base | {"compare": compare})


def test_every_rule_of_the_configuration_is_a_method() -> None:
    found = {one.name: one for one in contenders(config(methods=list(BUILT_IN)))}
    applied = {name: with_point(config(), one.overrides) for name, one in found.items()}
    assert {one.train.rule for one in applied.values()} == set(MASTERED)
    assert (applied["lora"].adapter.name, applied["osft"].adapter.name) == ("lora", "osft")
    assert applied["lora"].train.rule == applied["osft"].train.rule == "none"
    assert {name for name, one in found.items() if one.is_rule} == {"cpl", "cpl_gradient", "cpl_ema", "cpl_vote"}
    assert {name for name, one in found.items() if one.density_of} == {"random_mask"}


def test_the_default_list_can_be_compared() -> None:
    assert reference_of(contenders(config())) == "cpl"


def test_settings_of_ones_own() -> None:
    methods = ["cpl", {"replay": {"method.replay_weight": 3}}, {"seldom": {"train": {"rule": "cpl", "refresh": 4}}}]
    found = contenders(config(methods=methods, rates=[1e-4, 1e-3], method_rates={"replay": [1e-5]}))
    assert found[1].overrides == {"train.rule": "replay", "method.replay_weight": 3}
    assert (found[1].rates, found[1].own_rates) == ((1e-5,), True)
    assert found[2].overrides == {"train.rule": "cpl", "train.refresh": 4}
    assert (found[2].is_rule, found[2].own_rates) == (True, False)
    assert found[2].point(1e-3) == {"train.rule": "cpl", "train.refresh": 4, "optimizer.lr": 1e-3}
    given = contenders(config(methods=[{"random_mask": {"method.density": 0.3}}]))[0]
    assert given.density_of is None


@pytest.mark.parametrize(
    ("compare", "said"),
    [
        ({"methods": ["fine-tuning"]}, "no method 'fine-tuning'; did you mean fine_tuning"),
        ({"methods": []}, "compare.methods is empty"),
        ({"methods": ["cpl", "cpl"]}, "compare.methods: cpl stands there twice"),
        ({"rates": []}, "compare.rates is empty"),
        ({"rates": [1e-4, 1e-4]}, "compare.rates: 0.0001 stands there twice"),
        ({"method_rates": {"lora": []}}, "compare.method_rates: lora is empty"),
        ({"method_rates": {"lola": [1e-3]}}, "'lola' is not compared"),
        ({"seeds": [1, 2, 1]}, "compare.seeds: 1 stands there twice"),
        ({"methods": ["random_mask"]}, "compare cpl too, or write random_mask: {method.density: 0.5}"),
        ({"methods": [{"cpl": {"optimizer.lr": 1e-3}}]}, "give compare.method_rates"),
        ({"methods": [{"cpl": {"train.stop_at_learned": 0.5}}]}, "all methods have the same target"),
        ({"methods": [{"cpl": {"split.seed": 1}}]}, "compare.methods: cpl: split.seed concerns the assessment"),
        ({"methods": [{"mine": {"train.rulr": "cpl"}}]}, "compare.methods: mine: unknown key 'train.rulr'"),
        ({"methods": [{"mine": {"train.rule": "cpll"}}]}, "compare.methods: mine: train.rule='cpll'"),
    ],
)
def test_mistakes_are_named(compare: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        contenders(config(**compare))
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": {"stop_at_learned": None}}, "train.stop_at_learned is null"),
        ({"split": {"mastered_validation": 0.0}}, "split.mastered_validation is 0"),
        ({"data": {"mastered": "m.jsonl", "injection": "i.jsonl"}}, "brought sets have none; give data.items"),
    ],
)
def test_what_a_choice_needs(change: dict[str, Any], said: str) -> None:
    base: dict[str, Any] = {"model": "m", "data": {"items": "items.jsonl"}, "train": {"stop_at_learned": 0.9}}
    with pytest.raises(ConfigError) as raised:
        contenders(Config.model_validate(base | change))
    assert said in str(raised.value)
