"""The derived DeepSpeed configuration: what the user may merge over it and what is refused by name."""

from typing import Any

import pytest

from cpl_ray.config import Config
from cpl_ray.engine import WHOLE_SUB_GROUP, derive_deepspeed_config
from cpl_ray.errors import ConfigError


def make(**top: Any) -> Config:
    return Config.model_validate({"model": "m", **top})


def test_accumulation_and_clipping_are_always_written() -> None:
    derived = derive_deepspeed_config(make(train={"gradient_accumulation_steps": 4, "max_grad_norm": None}))
    assert derived["gradient_accumulation_steps"] == 1
    assert derived["managed_gradient_accumulation"] is False
    assert derived["gradient_clipping"] == 0.0
    assert derive_deepspeed_config(make())["gradient_clipping"] == 1.0


def test_bfloat16_accumulates_and_reduces_in_float32_and_never_runs_as_stage_0() -> None:
    config = make(zero_stage=0, train={"dtype": "bfloat16"})
    derived = derive_deepspeed_config(config)
    assert config.running_zero_stage == derived["zero_optimization"]["stage"] == 1
    assert derived["data_types"]["grad_accum_dtype"] == "fp32"
    assert derived["communication_data_type"] == "fp32"


def test_free_section_is_merged_section_by_section() -> None:
    free = {"zero_optimization": {"reduce_bucket_size": 7}, "wall_clock_breakdown": True}
    derived = derive_deepspeed_config(make(deepspeed=free))
    assert derived["zero_optimization"]["reduce_bucket_size"] == 7
    assert derived["zero_optimization"]["stage"] == 2
    assert derived["wall_clock_breakdown"] is True


@pytest.mark.parametrize("rule", ["agem", "pcgrad", "gem"])
def test_global_dot_products_take_one_sub_group(rule: str) -> None:
    own = derive_deepspeed_config(make(train={"rule": rule}, zero_stage=3))
    assert own["zero_optimization"]["sub_group_size"] == WHOLE_SUB_GROUP
    free = {"zero_optimization": {"sub_group_size": 1_000_000}}
    with pytest.raises(ConfigError, match=f"sub_group_size=1000000 is refused with train.rule={rule}"):
        derive_deepspeed_config(make(train={"rule": rule}, zero_stage=3, deepspeed=free))
    for other in ({"train": {"rule": rule}, "zero_stage": 2}, {"zero_stage": 3}, {"train": {"rule": "graddrop"}}):
        derived = derive_deepspeed_config(make(**other, deepspeed=free))
        assert derived["zero_optimization"]["sub_group_size"] == 1_000_000


@pytest.mark.parametrize(
    ("free", "said"),
    [
        ({"optimizer": {"type": "Adam"}}, r"optimizer\.\*"),
        ({"fp16": {"enabled": True}}, r"train\.dtype"),
        ({"gradient_clipping": 1.0}, r"train\.max_grad_norm"),
        ({"zero_optimization": {"stage": 3}}, "zero_stage"),
        ({"zero_optimization": {"round_robin_gradients": True}}, "round_robin_gradients"),
        ({"zero_optimization": 5}, "section of settings; got 5"),
    ],
)
def test_what_the_project_owns_is_refused_by_name(free: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        derive_deepspeed_config(make(deepspeed=free))
