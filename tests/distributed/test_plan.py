"""`cpl plan` against the real engine: bytes of live tensors by role, and at the peak of an update, for ZeRO 0 to 3."""

import gc
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen2Config

from cpl_ray.activations import Pass
from cpl_ray.calibration import batch_of, random_model
from cpl_ray.collectives import Collectives
from cpl_ray.config import Config
from cpl_ray.forecast import Forecast
from cpl_ray.item_sizes import RunItems
from cpl_ray.live_bytes import LiveBytes
from cpl_ray.step import accumulate
from cpl_ray.workload import ItemSize
from tests.distributed.launch import run_workers

pytestmark = pytest.mark.distributed
WORLD_SIZE = 2
SHAPE = Pass(rows=4, length=24, positions=3, targets=12)
SMALL_BUCKET = {"zero_optimization": {"reduce_bucket_size": 400_000, "stage3_prefetch_bucket_size": 100_000}}
VARIANTS: list[dict[str, Any]] = [
    {"zero_stage": 0},
    {"zero_stage": 1},
    {"zero_stage": 2},
    {"zero_stage": 3},
    {"zero_stage": 2, "train": {"dtype": "bfloat16", "mastered_state": "ema8"}},
    {"zero_stage": 1, "train": {"dtype": "bfloat16"}, "optimizer": {"name": "sgd", "momentum": 0.9}},
]


def make_config(variant: dict[str, Any]) -> Config:
    train = {"micro_batch_size": SHAPE.rows, "mastered_batch_size": 8, **variant.get("train", {})}
    values = {"model": "m", "deepspeed": SMALL_BUCKET, **variant, "train": train}
    return Config.model_validate({**values, "cluster": {"num_workers": WORLD_SIZE}})


def small_model() -> Qwen2Config:
    """Return the settings of a model of 3.1 million parameters with tied embeddings."""
    return Qwen2Config(
        vocab_size=2001,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )


def storages(tensors: Any) -> dict[int, int]:
    """Return the size of each storage that the tensors lie in; those on the meta device have none."""
    found = {}
    for tensor in (one for one in tensors if not one.is_meta):
        storage = tensor.untyped_storage()
        found[storage._cdata] = storage.nbytes()
    return found


def size_of(tensors: Any) -> int:
    return sum(storages(tensors).values())


def alive() -> list[Tensor]:
    gc.collect()
    return [one for one in gc.get_objects() if type(one) in (Tensor, torch.nn.Parameter)]


def gradients_of(engine: Any) -> list[Tensor]:
    wrapper = engine._engine.optimizer
    if type(wrapper).__name__ == "BF16_Optimizer":
        return [*wrapper.fp32_groups_gradients_flat, *(param.grad for param in engine.module.parameters())]
    if engine.stage < 2:
        return [param.grad for param in engine.module.parameters()]
    if engine.stage == 3:
        return [wrapper.grad_partitions_flat_buffer]
    return list(wrapper.averaged_gradients.get(0) or wrapper.all_grad_tensors[0])


def counted(variants: list[dict[str, Any]]) -> list[dict[str, int]]:
    """Make an update with every variant and count this rank's tensors."""
    from cpl_ray.engine import ZeroEngine

    found = []
    for variant in variants:
        before = storages(alive())
        config = make_config(variant)
        torch.manual_seed(0)
        engine = ZeroEngine(random_model(config, small_model()), config)
        comm, batch = Collectives(engine.device), [(batch_of(SHAPE),)]
        engine.module.train()
        peak, gradients = 0, 0
        for what in ("mastered", "injection"):
            own = alive()
            held = {key: size for key, size in storages(own).items() if key not in before}
            with LiveBytes(own) as live:
                accumulate(engine, batch, comm, what)
                gradients = max(gradients, size_of(gradients_of(engine)))
                if what == "mastered":
                    engine.capture()
                else:
                    engine.update()
            peak = max(peak, sum(held.values()) + live.peak)
        optimizer = engine.optimizer
        moments = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
        kept = [t for state in optimizer.kept_states if state is not None for t in state.tensors().values()]
        whole: list[Any] = list(engine.module.parameters())
        params = [param.ds_tensor if engine.stage == 3 else param for param in whole]
        found.append(
            {
                "parameters": size_of(params),
                "masters": 0 if engine.stage == 0 else size_of(engine.masters()),
                "gradients": gradients,
                "moments": sum(t.nbytes for t in moments),
                "mastered": sum(t.nbytes for t in kept),
                "peak": peak,
            }
        )
        engine.close()
        del engine, optimizer, moments, kept, params, own, live
    return found


def test_tensors_by_role_and_the_peak_are_as_planned_world_2() -> None:
    results = run_workers(counted, WORLD_SIZE, VARIANTS)
    sizes = [ItemSize(SHAPE.length - 3, 3)] * 40
    for index, variant in enumerate(VARIANTS):
        config = make_config(variant)
        forecast = Forecast(config, small_model(), RunItems(sizes, sizes), on_cpu=True, usable_bytes=1 << 40)
        planned = forecast.memory(forecast.present()).to_dict()
        ranks = [results[rank][index] for rank in range(WORLD_SIZE)]
        worst = {role: max(rank[role] for rank in ranks) for role in ranks[0]}
        for role in ("parameters", "masters", "gradients", "moments", "mastered"):
            assert worst[role] == planned[role], (variant, role, worst, planned)
        assert worst["peak"] == pytest.approx(planned["total"], rel=0.15), (variant, worst, planned)
