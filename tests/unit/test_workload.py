"""Tokens, updates and arithmetic of a run against counts by hand; accelerators by name."""

from typing import Any

import pytest

from cpl_ray.census import Census, Weight
from cpl_ray.config import Config
from cpl_ray.devices import DEVICES, GIB, find_device
from cpl_ray.errors import ConfigError
from cpl_ray.workload import ItemSize, batching, scoring_flops, training_flops, workload

INJECTION = [ItemSize(4, 2), ItemSize(8, 2), ItemSize(3, 1), ItemSize(5, 1), ItemSize(2, 1)]
MASTERED = [ItemSize(6, 1)] * 7
CENSUS = Census(
    (
        Weight("model.embed_tokens.weight", 600, True),
        Weight("model.layers.0.mlp.up_proj.weight", 100, True),
        Weight("model.norm.weight", 10, True, matrix=False),
    ),
    tied=True,
)


def make(**top: Any) -> Config:
    train = {"shuffle": False, "micro_batch_size": 2, "epochs": 3, **top.pop("train", {})}
    return Config.model_validate({"model": "m", "train": train, **top})


def test_batches_are_padded_to_their_longest_row() -> None:
    found = batching(INJECTION, make(), 2, None)
    assert found.padded_tokens == (2 * 10 + 2 * 6 + 1 * 3) / 5
    assert (found.length, found.targets) == (10, 7 / 5)
    # prompts of 4 and 8 tokens with answers of 2: columns 3, 4, 7, 8
    assert found.positions == 4


def test_rows_of_similar_length_share_a_pass_where_that_costs_less() -> None:
    # rows of 6 and 10 tokens, of 4 and 6, of 3; a pass costs 3 tokens: only the first two are parted
    assert batching(INJECTION, make(), 2, 3).padded_tokens == (6 + 10 + 2 * 6 + 3) / 5
    assert batching(INJECTION, make(), 2, 4).padded_tokens == (2 * 10 + 2 * 6 + 3) / 5


def test_m_train_need_not_be_asked() -> None:
    found = workload(make(evaluate={"in_set": False}), INJECTION, MASTERED, held_out=2, cost=None)
    assert found.scored_items == 5 + 2


@pytest.mark.parametrize(
    ("train", "captures", "size"),
    [
        ({"refresh": 1}, 9, 7),
        ({"refresh": 4, "mastered_batch_size": 3}, 3, 3),
        ({"refresh": "epoch"}, 3, 7),
        ({"rule": "none"}, 0, 0),
        ({"rule": "replay", "mastered_batch_size": 5}, 9, 5),
        ({"rule": "ewc"}, 1, 7),
    ],
)
def test_mastered_passes_follow_the_refresh(train: dict[str, Any], captures: int, size: int) -> None:
    found = workload(make(train=train), INJECTION, MASTERED, held_out=2, cost=None)
    assert (found.updates_per_epoch, found.updates) == (3, 9)
    assert (found.captures, found.mastered_items_per_capture) == (captures, size)
    assert found.injection_tokens == 3 * (2 * 10 + 2 * 6 + 3)
    assert found.mastered_tokens == captures * size * 7
    assert (found.evaluations, found.scored_items) == (4, 5 + 7 + 2)


def test_the_last_update_may_come_before_the_epochs_end() -> None:
    found = workload(make(train={"max_steps": 2}, evaluate={"every": None}), INJECTION, MASTERED, held_out=0, cost=None)
    assert (found.updates, found.evaluations, found.scored_tokens) == (2, 0, 0)


def test_arithmetic_is_six_per_weight_and_token() -> None:
    shape: dict[str, Any] = {"tokens": 1000, "length": 0, "targets": 0.0, "layers": 1, "width": 8}
    assert training_flops(CENSUS, **shape, checkpointing=False) == 6 * 100 * 1000
    assert training_flops(CENSUS, **shape, checkpointing=True) == 8 * 100 * 1000
    assert scoring_flops(CENSUS, **shape) == 2 * 100 * 1000
    frozen = Census(tuple(Weight(w.name, w.numel, False, w.matrix) for w in CENSUS.weights), tied=True)
    assert training_flops(frozen, **shape, checkpointing=False) == 4 * 100 * 1000


def test_head_and_attention_are_counted_where_they_are_used() -> None:
    shape: dict[str, Any] = {"tokens": 1000, "length": 20, "targets": 0.25, "layers": 3, "width": 8}
    attention = 4 * 20 * 8 * 3 * 1000
    assert scoring_flops(CENSUS, **shape) == 2 * 1000 * (100 + 150) + attention
    assert training_flops(CENSUS, **shape, checkpointing=False) == 6 * 1000 * (100 + 150) + 3 * attention


def test_accelerators_are_found_by_any_spelling() -> None:
    assert find_device("a100-80gb") is find_device("A100 80GB") is DEVICES["A100-80GB"]
    assert find_device("cpu") is None
    with pytest.raises(ConfigError, match=r"'A100-80' is unknown; did you mean A100-80GB\?.*MI300X, cpu"):
        find_device("A100-80")


def test_data_sheets() -> None:
    a100, t4 = DEVICES["A100-80GB"], DEVICES["T4"]
    assert (a100.memory_bytes, a100.peak("float32"), a100.peak("bfloat16")) == (80 * GIB, 19.5e12, 312e12)
    assert t4.peak("bfloat16") == t4.peak("float32") == 8.1e12
