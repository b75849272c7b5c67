"""Reach DeepSpeed's float32 masters between updates, and bring the model's parameters up to them again.

The only place that knows these attributes; the guard's parity over stages (tests/distributed/test_guard.py) is their
contract. The calls are those at the end of DeepSpeed's own `step()`.
"""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from torch import Tensor

from cpl_ray.errors import ConfigError


def masters(wrapper: Any, stage: int, seen: Sequence[Tensor]) -> list[Tensor]:
    """Return this rank's flat float32 masters, known before the first update in every stage.

    Args:
        wrapper: `engine.optimizer` of DeepSpeed, around our optimizer.
        stage: ZeRO stage.
        seen: the tensors that our optimizer was given; all of them in stages 0 to 2.

    Raises:
        ConfigError: they are not in memory, or DeepSpeed is not as expected.
    """
    flats = list(seen) if stage < 3 else list(_get(wrapper, "fp32_partitioned_groups_flat"))
    if any(flat is None for flat in (flats if stage < 3 else _get(wrapper, "fp16_partitioned_groups_flat"))):
        raise ConfigError("guard.mode adapt and rollback need parameters in memory; they are swapped out to NVMe")
    return flats


def publish(wrapper: Any, stage: int) -> None:
    """Copy changed masters into the model's parameters; all ranks call.

    Raises:
        ConfigError: DeepSpeed is not as expected; says which attribute.
    """
    if stage == 0:  # the parameters are the masters
        return
    if stage < 3:
        _get(wrapper, "update_lp_params")()
        return
    _get(wrapper, "_partition_all_parameters")()
    for sub_group in range(len(_get(wrapper, "fp16_groups"))):
        _get(wrapper, "_reassign_or_swap_out_partitioned_parameters")(sub_group)
    persistent = _get(wrapper, "persistent_parameters")  # small ones, kept whole on every rank
    if persistent:
        persistent[0].all_gather(persistent)


def _get(wrapper: Any, name: str) -> Any:
    if not hasattr(wrapper, name):
        raise ConfigError(
            f"guard.mode adapt and rollback do not know how DeepSpeed {version('deepspeed')} keeps its masters: "
            f"{type(wrapper).__name__} has no {name}; use guard.mode=monitor"
        )
    return getattr(wrapper, name)
