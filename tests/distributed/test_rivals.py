"""The methods beside the rule under DeepSpeed on two ranks equal plain torch in one process (bound: test_zero_parity).

And the Fisher information of EWC does not depend on the world size.
"""

from typing import Any

import pytest
import torch
from torch import nn

from cpl_ray.config import Config
from cpl_ray.loop import TrainingLoop
from tests.distributed.launch import run_workers
from tests.distributed.test_zero_parity import INJECTION, MASTERED, OPTIMIZERS, agreement, plain_run
from tests.oracle import transcription
from tests.oracle.plain_engine import PlainEngine
from tests.oracle.toy import Rowset, toy_model

pytestmark = pytest.mark.distributed
SUB_GROUPS = {"zero_optimization": {"sub_group_size": 1500}}
METHODS: dict[str, dict[str, Any]] = {
    "replay": {"method": {"replay_weight": 0.7}},
    "l2sp": {"method": {"strength": 3.0}},
    "ewc": {"method": {"strength": 300.0, "fisher_items": 5}},
    "random_mask": {"method": {"density": 0.4}},
    "hft": {},
    "mofo": {"method": {"density": 0.3}},
    "cautious": {},
}
PLACES: list[dict[str, Any]] = [{"zero_stage": 2}, {"zero_stage": 3, "deepspeed": SUB_GROUPS}]
OTHERS = [  # in stage 0 every rank holds everything; stage 1 shares its code with stage 2
    ("mofo", {"zero_stage": 0}, "momentum"),
    ("cautious", {"zero_stage": 0}, "momentum"),
    ("ewc", {"zero_stage": 1, "offload_optimizer": True}, "momentum"),
]
RUNS = [(rule, place, "adamw") for rule in METHODS for place in PLACES] + OTHERS


def make_config(rule: str, place: dict[str, Any], optimizer: str, micro_batch_size: int) -> dict[str, Any]:
    train = {"rule": rule, "epochs": 2, "micro_batch_size": micro_batch_size, "shuffle": False, "max_grad_norm": 0.5}
    train |= {"mastered_batch_size": 3, "seed": 4}
    return {"model": "toy", "optimizer": OPTIMIZERS[optimizer], "train": train, **METHODS[rule], **place}


def fisher_pieces(optimizer: Any, layout: Any) -> list[tuple[str, int, torch.Tensor]]:
    """Return name, first element and values of every run of F on this rank."""
    return [
        (piece.name, piece.start, kept.fisher[piece.part].clone())
        for kept, pieces in zip(optimizer.kept_states, layout.flats, strict=True)
        for piece in pieces
    ]


def zero_runs(configs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Train one toy model per configuration; return weights, shares, and F where there is one."""
    from cpl_ray.engine import ZeroEngine

    results = []
    for values in configs:
        config = Config.model_validate(values)
        engine = ZeroEngine(toy_model(), config)
        loop = TrainingLoop(config, engine, Rowset(INJECTION), Rowset(MASTERED), pad_id=0, zero_stage=engine.stage)
        state = loop.run()
        weights = {name: tensor.detach().float().clone() for name, tensor in engine.state_dict().items()}
        fisher = fisher_pieces(engine.optimizer, engine.layout()) if config.train.rule == "ewc" else []
        results.append({"weights": weights, "moved": state.mean("moved_share"), "fisher": fisher})
        engine.close()
    return results


def fisher_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the mean of the squared gradients of the first five mastered items."""
    squares = [[g.square() for g in transcription.mean_gradient(model, [item])] for item in MASTERED[:5]]
    means = [torch.stack(each).mean(0) for each in zip(*squares, strict=True)]
    return {name: mean for (name, _), mean in zip(model.named_parameters(), means, strict=True)}


def test_methods_equal_one_plain_process_world_2() -> None:
    results = run_workers(zero_runs, 2, [make_config(*run, micro_batch_size=2) for run in RUNS])
    failures = []
    importance = fisher_of(toy_model())
    whole: dict[str, dict[str, torch.Tensor]] = {}
    for index, (rule, place, optimizer) in enumerate(RUNS):
        key = f"{rule} {optimizer}"
        if key not in whole:
            whole[key] = plain_run(Config.model_validate(make_config(rule, {"zero_stage": 0}, optimizer, 4)))
        share = agreement(results[0][index]["weights"], whole[key])
        if share < 0.999:
            failures.append((rule, place, optimizer, share))
        seen = 0
        for name, start, values in (piece for rank in results for piece in rank[index]["fisher"]):
            seen += values.numel()
            expected = importance[name].view(-1)[start : start + values.numel()]
            torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-9)
        assert seen == (sum(f.numel() for f in importance.values()) if rule == "ewc" else 0)
    assert not failures, failures
    moved = {run[0]: results[0][index]["moved"] for index, run in enumerate(RUNS[: 2 * len(METHODS)])}
    assert moved["random_mask"] == pytest.approx(0.4, abs=0.02)
    assert moved["mofo"] < 0.5 < moved["l2sp"]


def plain_results(rules: list[str]) -> list[list[torch.Tensor]]:
    """Train with whole parameters on every rank; return the parameters."""
    results = []
    for rule in rules:
        config = Config.model_validate(make_config(rule, {"zero_stage": 0}, "momentum", 2))
        model = toy_model(torch.float64)
        TrainingLoop(config, PlainEngine(model, config), Rowset(INJECTION), Rowset(MASTERED), pad_id=0).run()
        results.append([p.detach() for p in model.parameters()])
    return results


def test_float64_on_two_plain_ranks_equals_one() -> None:
    """World size 2."""
    rules = list(METHODS)
    results = run_workers(plain_results, 2, rules)
    for index, rule in enumerate(rules):
        config = Config.model_validate(make_config(rule, {"zero_stage": 0}, "momentum", 4))
        model = toy_model(torch.float64)
        TrainingLoop(config, PlainEngine(model, config), Rowset(INJECTION), Rowset(MASTERED), pad_id=0).run()
        for mine, theirs in zip(model.parameters(), results[1][index], strict=True):
            torch.testing.assert_close(mine.detach(), theirs, rtol=0, atol=1e-10, msg=rule)
