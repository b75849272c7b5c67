"""Several forward passes with one backward pass: what ZeRO trains is what one pass over the padded whole would."""

from typing import Any

import pytest
import torch

import cpl_ray.passes
from cpl_ray.batches import micro_batch
from cpl_ray.config import Config
from cpl_ray.length_groups import pass_cost
from cpl_ray.loop import TrainingLoop
from tests.distributed.launch import run_workers
from tests.oracle.plain_engine import PlainEngine
from tests.oracle.toy import Rowset, toy_items, toy_model

pytestmark = pytest.mark.distributed
SHORT, LONG = toy_items(24, seed=3), [(prompt * 4, answer) for prompt, answer in toy_items(24, seed=4)]
MASTERED, INJECTION = [*SHORT[:8], *LONG[:8]], [*SHORT[8:], *LONG[8:]]
TRAIN: dict[str, Any] = {"micro_batch_size": 8, "mastered_batch_size": 16, "epochs": 2}
CASES = [(0, False), (1, False), (2, False), (2, True), (3, False)]  # stage, offload


def make_config(stage: int, offload: bool, train: dict[str, Any]) -> Config:
    optimizer = {"name": "adamw", "lr": 1e-3}
    return Config.model_validate(
        {"model": "toy", "optimizer": optimizer, "train": train, "zero_stage": stage, "offload_optimizer": offload}
    )


def zero_run(cases: list[tuple[int, bool]]) -> list[dict[str, torch.Tensor]]:
    from cpl_ray.engine import ZeroEngine

    results = []
    for stage, offload in cases:
        config = make_config(stage, offload, TRAIN)
        engine = ZeroEngine(toy_model(), config)
        TrainingLoop(config, engine, Rowset(INJECTION), Rowset(MASTERED), pad_id=0, zero_stage=engine.stage).run()
        results.append({name: tensor.detach().float().clone() for name, tensor in engine.state_dict().items()})
        engine.close()
    return results


def test_stages_equal_one_padded_pass_world_2(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rowset(INJECTION).take(tuple(range(8, 24)))
    assert len(micro_batch(rows, 0, cost=pass_cost(on_cpu=True))) > 1  # short and long items part
    monkeypatch.setattr(cpl_ray.passes, "pass_cost", lambda **_: None)
    model = toy_model()
    config = make_config(0, False, TRAIN | {"micro_batch_size": 16})
    TrainingLoop(config, PlainEngine(model, config), Rowset(INJECTION), Rowset(MASTERED), pad_id=0).run()
    reference = torch.cat([tensor.detach().view(-1) for tensor in model.state_dict().values()])
    for case, weights in zip(CASES, run_workers(zero_run, 2, CASES)[0], strict=True):
        ours = torch.cat([weights[name].view(-1) for name in model.state_dict()])
        inside = (ours - reference).abs() <= 1e-5 * (reference.abs() + 1e-3)
        assert float(inside.double().mean()) >= 0.999, case
