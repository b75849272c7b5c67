"""A run that was interrupted and resumed ends bit for bit like one that was not: weights, masters, metrics."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from cpl_ray.adapters import adapt
from cpl_ray.checkpoint import CHECKPOINTS, latest_checkpoint
from cpl_ray.config import Config
from cpl_ray.errors import NonFiniteError, ResumeError
from tests.distributed.launch import run_workers
from tests.oracle.toy import Rowset, toy_items, toy_model

pytestmark = pytest.mark.distributed
MASTERED, INJECTION = toy_items(7, seed=1), toy_items(9, seed=2)
VARIANTS: list[dict[str, Any]] = [
    {"zero_stage": 0},
    {"zero_stage": 1, "train": {"mastered_state": "full"}},
    {"zero_stage": 2},
    {"zero_stage": 2, "train": {"dtype": "bfloat16"}},
    {"zero_stage": 2, "offload_optimizer": True},
    {"zero_stage": 3},
    {"zero_stage": 2, "train": {"refresh": "epoch"}, "optimizer": {"name": "torch.optim.RMSprop", "lr": 1e-3}},
    {"zero_stage": 2, "train": {"rule": "ewc"}, "method": {"fisher_items": 3}},
    {"zero_stage": 3, "train": {"rule": "l2sp"}, "method": {"strength": 5.0}},
    {"zero_stage": 2, "adapter": {"name": "lora", "dropout": 0.2}, "train": {"rule": "none"}},
    {"zero_stage": 3, "adapter": {"name": "osft"}},
]


def make_config(variant: dict[str, Any], max_steps: int) -> Config:
    train = {
        "micro_batch_size": 2,
        "refresh": 3,  # the mastered state must survive the checkpoint after update 4
        "mastered_batch_size": 4,
        "epochs": 9,
        "max_steps": max_steps,
        "checkpoint_every": 2,
        **variant.get("train", {}),
    }
    optimizer = variant.get("optimizer", {"name": "adamw", "lr": 1e-3, "weight_decay": 0.1})
    return Config.model_validate({"model": "toy", **variant, "optimizer": optimizer, "train": train})


def train_once(config: Config, folder: Path) -> dict[str, torch.Tensor]:
    return train_for("", config, folder)[0]


def train_for(job: str, config: Config, folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Train; return the weights and where the job's time went."""
    from cpl_ray.engine import ZeroEngine
    from cpl_ray.loop import TrainingLoop

    dtype = torch.bfloat16 if config.train.dtype == "bfloat16" else torch.float32
    model = toy_model(dtype, dropout=0.2)
    assert isinstance(model, PreTrainedModel)
    adapt(model, config.adapter)
    engine = ZeroEngine(model, config)
    places: dict[str, Any] = {"run_folder": folder, "zero_stage": engine.stage, "job": job}
    state = TrainingLoop(config, engine, Rowset(INJECTION), Rowset(MASTERED), pad_id=0, **places).run()
    weights = {name: tensor.detach().clone() for name, tensor in engine.state_dict().items()}
    engine.close()
    return weights, state.seconds


def seconds_of_attempts(root: str) -> list[dict[str, float]]:
    config = make_config(VARIANTS[0], 4)  # its last update is in a checkpoint: whoever resumes has none to do
    return [train_for(job, config, Path(root))[1] for job in ("first", "first", "second")]


def test_workers_started_again_go_on_counting_and_another_job_begins_anew_world_2(tmp_path: Path) -> None:
    first, again, other = run_workers(seconds_of_attempts, 2, str(tmp_path))[0]
    assert 0 < again["updates"] == first["updates"]
    assert other["updates"] == 0


def all_variants(root: str) -> list[list[dict[str, torch.Tensor]]]:
    results = []
    for index, variant in enumerate(VARIANTS):
        whole, parts = Path(root, f"{index}-whole"), Path(root, f"{index}-parts")
        uninterrupted = train_once(make_config(variant, 8), whole)
        train_once(make_config(variant, 5), parts)  # the last checkpoint is after update 4, update 5 is lost
        resumed = train_once(make_config(variant, 8), parts)
        results.append([uninterrupted, resumed])
    return results


def test_resumed_equals_uninterrupted_world_2(tmp_path: Path) -> None:
    results = run_workers(all_variants, 2, str(tmp_path))[0]
    for index, (uninterrupted, resumed) in enumerate(results):
        for name, tensor in uninterrupted.items():
            assert torch.equal(tensor, resumed[name]), (VARIANTS[index], name)
        lines = [
            [json.loads(line) for line in (tmp_path / f"{index}-{kind}" / "metrics.jsonl").read_text().splitlines()]
            for kind in ("whole", "parts")
        ]
        timing = {"time", "seconds", "tokens_per_s", "memory_bytes"}
        whole, parts = [[{k: v for k, v in r.items() if k not in timing} for r in records] for records in lines]
        by_layer = (("layers", 1), ("layer_flips", 2))
        rule = VARIANTS[index].get("train", {}).get("rule", "cpl")
        for kind, first in (("train", 1), *(by_layer if rule == "cpl" else ())):
            assert [r["step"] for r in parts if r["kind"] == kind] == list(range(first, 9))
        assert whole == parts, VARIANTS[index]
        last = latest_checkpoint(tmp_path / f"{index}-parts" / CHECKPOINTS)
        # the form of a step depends on what was planned at first, so the resume with more updates keeps that
        assert last is not None
        assert (last.state()["step"], last.state()["planned"]) == (8, 5)


def refusals(root: str) -> list[str]:
    said = []
    folder = Path(root)
    train_once(make_config(VARIANTS[2], 2), folder)
    for variant in (VARIANTS[5], VARIANTS[2]):
        if variant is VARIANTS[2]:
            victim = next((folder / "train" / "checkpoints").rglob("*optim_states.pt"))
            torch.distributed.barrier()
            if torch.distributed.get_rank() == 0:
                victim.write_bytes(victim.read_bytes()[:-1])
            torch.distributed.barrier()
        try:
            train_once(make_config(variant, 4), folder)
        except ResumeError as error:
            said.append(str(error))
    return said


def test_other_stage_and_damage_are_refused_on_every_rank_world_2(tmp_path: Path) -> None:
    for rank, said in enumerate(run_workers(refusals, 2, str(tmp_path))):
        assert len(said) == 2
        assert "zero_stage=2" in said[0]
        assert "damaged" in said[1], rank


def poisoned(stage: int) -> tuple[str, bool]:
    """Put a NaN into one rank's weights and train; return the message and whether anything moved."""
    from cpl_ray.engine import ZeroEngine
    from cpl_ray.loop import TrainingLoop

    config = make_config({"zero_stage": stage}, 3)
    model = toy_model()
    torch.nn.init.constant_(dict(model.named_parameters())["model.norm.weight"], float("nan"))
    engine = ZeroEngine(model, config)
    before = {name: tensor.detach().clone() for name, tensor in engine.state_dict().items()}
    try:
        TrainingLoop(config, engine, Rowset(INJECTION), Rowset(MASTERED), pad_id=0).run()
    except NonFiniteError as error:
        after = engine.state_dict()
        names = [name for name in before if not name.endswith("norm.weight")]
        return str(error), all(torch.equal(before[name], after[name].detach()) for name in names)
    return "nothing was said", False


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_non_finite_stops_before_anything_moves_world_2(stage: int) -> None:
    for message, unmoved in run_workers(poisoned, 2, stage):
        assert "no parameter was moved" in message
        assert unmoved
