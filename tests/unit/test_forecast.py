"""`cpl plan` from a configuration to its advice: what is kept, what fits, what is recommended, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from cpl_ray.config import Config
from cpl_ray.devices import GIB
from cpl_ray.forecast import Choice, Forecast, kept_bytes, moment_bytes, setup_of
from cpl_ray.item_sizes import given_items
from pipelines.needs import needs
from pipelines.needs_view import show_needs

SETTINGS = LlamaConfig(
    vocab_size=2000,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
SIZES = [3000, 1096]
ROUNDED = 3 * 8 * (47 + 18)  # signs and classes: words of 64 elements


def make(**top: Any) -> Config:
    return Config.model_validate({"model": "m", **top})


@pytest.mark.parametrize(
    ("top", "per_element"),
    [
        ({}, 3 / 8),
        ({"train": {"mastered_state": "full"}}, 4 + 3 / 8),
        ({"train": {"rule": "none"}}, 0),
        ({"train": {"rule": "replay"}}, 0),
        ({"train": {"rule": "agem"}}, 4),
        ({"train": {"rule": "gem"}, "method": {"memory": 3}}, 12),
        ({"train": {"rule": "l2sp"}}, 4),
        ({"train": {"rule": "ewc"}}, 8),
    ],
)
def test_bytes_that_a_method_keeps(top: dict[str, Any], per_element: float) -> None:
    padding = ROUNDED - 3 / 8 * 4096 if per_element % 1 else 0  # three planes of whole words
    assert kept_bytes(make(**top), SIZES) == per_element * 4096 + padding


def test_estimates_keep_a_byte_more_and_little_beside() -> None:
    assert kept_bytes(make(train={"mastered_state": "ema8"}), SIZES) == ROUNDED + 4096 + 4 * (3 + 2)
    assert kept_bytes(make(train={"mastered_state": "vote"}), SIZES) == ROUNDED + 4096 + 2 * 8


@pytest.mark.parametrize(
    ("optimizer", "per_element"),
    [
        ({"name": "adamw"}, 8),
        ({"name": "sgd", "momentum": 0.9}, 4),
        ({"name": "sgd"}, 0),
        ({"name": "torch.optim.RMSprop"}, 4),
        ({"name": "torch.optim.Adam", "options": {"amsgrad": True}}, 12),
    ],
)
def test_bytes_of_the_moments(optimizer: dict[str, Any], per_element: int) -> None:
    counted = moment_bytes(make(optimizer=optimizer), SIZES)
    assert 0 <= counted - per_element * 4096 <= 8 * len(SIZES), "beside the moments there are step counts"


def plan(usable: int, **top: Any) -> Forecast:
    config = make(**{"cluster": {"num_workers": 2}, **top})
    return Forecast(config, SETTINGS, given_items(config, 100, 40, 0.5), on_cpu=False, usable_bytes=usable)


SMALL = {"deepspeed": {"zero_optimization": {"reduce_bucket_size": 1000, "stage3_prefetch_bucket_size": 1000}}}


def test_the_lowest_stage_that_fits_is_recommended() -> None:
    whole = plan(1 << 40, **SMALL)
    assert whole.recommended() == Choice(0, False, False, 2, "float32")
    sizes = {choice: whole.needed(choice) for choice in whole.choices()}
    for limit in sizes.values():
        whole.usable_bytes = limit
        found = whole.recommended()
        assert found is not None
        assert sizes[found] <= limit
        assert all(size > limit for choice, size in sizes.items() if choice.stage < found.stage and not choice.offload)
    whole.usable_bytes = 1000
    assert whole.recommended() is None


def test_the_largest_micro_batch_fits_and_one_more_does_not() -> None:
    forecast = plan(100 << 20, **SMALL)
    choice = forecast.present()
    largest = forecast.largest_micro_batch(choice)
    rows = forecast.micro_batches["injection"]
    assert largest > rows
    assert (
        forecast.needed(choice, largest / rows) <= forecast.usable_bytes < forecast.needed(choice, (largest + 1) / rows)
    )
    forecast.usable_bytes = 1000
    assert forecast.largest_micro_batch(choice) == 0


def test_what_would_help_is_named() -> None:
    forecast = plan(1 << 40, **SMALL)
    forecast.usable_bytes = min(forecast.needed(choice) for choice in forecast.choices()) - 1
    found = dict(forecast.remedies())
    assert any("gradient_checkpointing" in words or "num_workers" in words or "bfloat16" in words for words in found)


def test_bfloat16_is_never_planned_as_stage_0() -> None:
    forecast = plan(1 << 40, train={"dtype": "bfloat16"}, zero_stage=0)
    assert forecast.present().stage == 1
    assert {choice.stage for choice in forecast.choices()} == {1, 2, 3}


def test_bucket_sizes_are_the_users_where_given() -> None:
    census = plan(1).census
    assert setup_of(make(**SMALL), census, on_cpu=False).bucket == 1000
    assert setup_of(make(), census, on_cpu=False).bucket == 500_000_000
    assert setup_of(make(), census, on_cpu=True).bucket == 1 << 22


def test_a_folder_with_nothing_but_a_configuration_is_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    SETTINGS.save_pretrained(tmp_path / "model")
    rows = [{"question": f"Is {n} even?", "choices": ["yes", "no"], "answer": n % 2} for n in range(40)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = make(model=str(tmp_path / "model"), data={"items": str(tmp_path / "items.jsonl")}, train={"epochs": 2})
    found = needs(config, gpu="L4", known=0.75, say=lambda *args, **fields: None)
    assert json.loads(json.dumps(found)) == found
    assert found["model"]["parameters"] == 2 * 2000 * 128 + 2 * (128 * 128 * 3 + 3 * 128 * 256 + 2 * 128) + 128
    assert found["device"]["usable_bytes"] == int(24 * GIB * 0.9) - GIB
    assert (found["workload"]["injection_items"], found["workload"]["mastered_items"]) == (10, 15)
    assert found["workload"]["updates"] == 2 * 2
    assert any("characters" in note for note in found["items"]["notes"])
    assert found["recommended"]["zero_stage"] == 0
    assert found["time"]["estimate"] is True
    assert found["time"]["total_s"] > 0
    show_needs(found)
    shown = capsys.readouterr().out
    expected = ("1 x L4", "config.json in", "2 (configured)", "2, offload", "zero_stage=0", "time (estimate)", "note: ")
    assert [words for words in expected if words not in shown] == []
