"""The search space: what is understood, what is refused, and that points depend on seed and number alone."""

import math
import re
from typing import Any

import pytest

from cpl_ray.config import Config
from cpl_ray.errors import ConfigError
from cpl_ray.space import Dimension, algorithm_of, dimensions, grid_points, random_point, with_point


def config(space: dict[str, Any], **search: Any) -> Config:
    return Config.model_validate({"model": "m", "search": {"space": space, **search}})


def test_specifications() -> None:
    space = {
        "optimizer.lr": {"loguniform": [1e-5, 1e-3]},
        "train.refresh": {"choice": [1, 4, "epoch"]},
        "train.mastered_size": [50, 100, None],
        "train.mastered_batch_size": {"loguniform": [8, 128]},
        "optimizer": {"weight_decay": {"uniform": [0.0, 0.1]}},
    }
    found = dimensions(config(space))
    assert [(one.key, one.kind, one.values) for one in found] == [
        ("optimizer.lr", "loguniform", (1e-5, 1e-3)),
        ("train.refresh", "choice", (1, 4, "epoch")),
        ("train.mastered_size", "grid", (50, 100, None)),
        ("train.mastered_batch_size", "loguniform", (8, 128)),
        ("optimizer.weight_decay", "uniform", (0.0, 0.1)),
    ]
    assert [one.whole for one in found] == [False, False, False, True, False]


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({}, "search.space is empty"),
        ({"optimizer.rl": [1]}, "did you mean 'optimizer.lr'"),
        ({"optimizer.lr": 1e-4}, "optimizer.lr is 0.0001; valid is a list"),
        ({"optimizer.lr": {"lognormal": [1, 2]}}, "valid is a list of values or one of"),
        ({"optimizer.lr": []}, "at least one value"),
        ({"optimizer.lr": [1e-4, 1e-4]}, "a value twice"),
        ({"optimizer.lr": [-1.0]}, "optimizer.lr=-1.0 is not valid"),
        ({"optimizer.lr": {"uniform": [1e-3, 1e-4]}}, "the smaller first"),
        ({"optimizer.lr": {"loguniform": [0, 1e-4]}}, "must be above 0"),
        ({"train.refresh": {"choice": ["never"]}}, "train.refresh='never' is not valid"),
        ({"split.seed": [1, 2]}, "the assessment, which all trials share"),
        ({"model": ["a", "b"]}, "the assessment, which all trials share"),
        ({"run.name": ["a", "b"]}, "where and how trials run"),
        ({"budget.max_forgetting": [0.1]}, "what is judged"),
        ({"train.seed": [1, 2]}, "give search.seeds"),
        ({"train": [1]}, "train"),
    ],
)
def test_mistakes_are_named(space: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        dimensions(config(space))


def test_grid_needs_grids_and_seeds_are_distinct() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.lr is a uniform"):
        dimensions(config({"optimizer.lr": {"uniform": [1e-5, 1e-4]}}, algorithm="grid"))
    with pytest.raises(ConfigError, match="a seed twice"):
        dimensions(config({"optimizer.lr": [1e-5]}, seeds=[1, 1]))


def test_auto_is_grid_for_grids_only() -> None:
    grids = config({"optimizer.lr": [1e-5, 1e-4]})
    mixed = config({"optimizer.lr": {"choice": [1e-5, 1e-4]}})
    assert algorithm_of(grids.search, dimensions(grids)) == "grid"
    assert algorithm_of(mixed.search, dimensions(mixed)) == "optuna"


def test_grid_is_every_combination() -> None:
    found = [Dimension("a", "grid", (1, 2)), Dimension("b", "uniform", (0.0, 1.0)), Dimension("c", "grid", (3, 4))]
    assert grid_points(found) == [{"a": 1, "c": 3}, {"a": 1, "c": 4}, {"a": 2, "c": 3}, {"a": 2, "c": 4}]
    assert grid_points([]) == [{}]


def test_random_points_keep_when_more_are_asked_for_and_share_out_grids() -> None:
    found = dimensions(config({"train.mastered_size": [50, 100], "optimizer.lr": {"loguniform": [1e-5, 1e-3]}}))
    points = [random_point(found, index, seed=3) for index in range(200)]
    assert points[:10] == [random_point(found, index, seed=3) for index in range(10)]
    assert points != [random_point(found, index, seed=4) for index in range(200)]
    assert [point["train.mastered_size"] for point in points[:4]] == [50, 100, 50, 100]
    rates = [point["optimizer.lr"] for point in points]
    assert all(1e-5 <= rate <= 1e-3 for rate in rates)
    # log-uniform: half of them below the geometric mean (200 draws: 100 ± 4 standard deviations of 7.1)
    assert abs(sum(rate < 1e-4 for rate in rates) - 100) < 29


def test_whole_numbers_stay_whole() -> None:
    found = dimensions(
        config({"train.mastered_batch_size": {"loguniform": [8, 128]}, "train.epochs": {"uniform": [1, 3]}})
    )
    points = [random_point(found, index, 0) for index in range(300)]
    assert {type(point["train.mastered_batch_size"]) for point in points} == {int}
    assert {point["train.epochs"] for point in points} == {1, 2, 3}
    assert min(point["train.mastered_batch_size"] for point in points) >= 8


def test_a_point_changes_its_keys_only() -> None:
    base = config({"optimizer.lr": [1e-5]})
    changed = with_point(base, {"optimizer.lr": 1e-5, "train.mastered_size": 7})
    assert changed.optimizer.lr == 1e-5
    assert changed.train.mastered_size == 7
    assert changed.train.model_copy(update={"mastered_size": None}) == base.train
    assert math.isclose(base.optimizer.lr, Config(model="m").optimizer.lr)
