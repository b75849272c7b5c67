"""Adapters under ZeRO: training equals plain torch, the live model is asked like any other, the saved one is ordinary.

Two ranks whose LoRA would start differently: that of rank 0 counts.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from cpl_ray.adapters import adapt, merged
from cpl_ray.config import Config
from cpl_ray.loop import TrainingLoop
from cpl_ray.model import save_model
from tests.distributed.launch import run_workers
from tests.distributed.test_scorer_zero3 import build, items, plain, scorer
from tests.oracle.plain_engine import PlainEngine
from tests.oracle.toy import VOCAB, Rowset, toy_items, toy_model

pytestmark = pytest.mark.distributed
MASTERED, INJECTION = toy_items(8, seed=1), toy_items(12, seed=2)
IDS = torch.randint(1, VOCAB, (2, 9), generator=torch.Generator().manual_seed(0))
LR = 1e-2
LORA = {"name": "lora", "rank": 4, "dropout": 0.0}
OSFT = {"name": "osft", "frozen_share": 0.6}
VARIANTS: list[dict[str, Any]] = [
    {"adapter": LORA, "zero_stage": 2, "train": {"rule": "none"}},
    {"adapter": LORA, "zero_stage": 3, "train": {"rule": "cpl"}},
    {"adapter": OSFT, "zero_stage": 2, "train": {"rule": "cpl"}},
    {"adapter": OSFT, "zero_stage": 3, "train": {"rule": "none"}},
]


def make_config(variant: dict[str, Any], **train: Any) -> Config:
    shared = {"micro_batch_size": 3, "mastered_batch_size": 8, "epochs": 3, "shuffle": False}
    return Config.model_validate(
        {"model": "toy", "optimizer": {"lr": LR}, **variant, "train": {**shared, **variant["train"], **train}}
    )


def adapted(config: Config, *, seed: int = 0) -> PreTrainedModel:
    dtype = torch.bfloat16 if config.train.dtype == "bfloat16" else torch.float32
    model = toy_model(dtype, tied=True)
    assert isinstance(model, PreTrainedModel)
    adapt(model, config.adapter, seed=seed)
    return model


def train_and_save(root: str) -> list[dict[str, Any]]:
    """Train each variant, ask the live model for logits and save the merged one from rank 0."""
    from cpl_ray.engine import ZeroEngine

    results = []
    rank = torch.distributed.get_rank()
    for index, variant in enumerate([*VARIANTS, {**VARIANTS[2], "train": {"rule": "cpl", "dtype": "bfloat16"}}]):
        config = make_config(variant)
        model = adapted(config, seed=rank)
        engine = ZeroEngine(model, config)
        TrainingLoop(config, engine, Rowset(INJECTION), Rowset(MASTERED), pad_id=0, zero_stage=engine.stage).run()
        engine.module.eval()
        with torch.no_grad():
            logits = engine.module(input_ids=IDS).logits.float()
        state = {name: tensor.detach().clone() for name, tensor in engine.state_dict().items()}
        if rank == 0:
            save_model(
                model, scorer("exact_match").tokenizer, Path(root, str(index)), merged(model, config.adapter, state)
            )
        results.append({"logits": logits, "state": state, "num_params": engine.num_params})
        engine.close()
    return results


def ask_live() -> list[dict[str, Any]]:
    """Ask models under ZeRO 3, whose adapter is far from its start, by both kinds of scorer; return verdicts."""
    from cpl_ray.collectives import Collectives
    from cpl_ray.engine import ZeroEngine

    results = []
    rank = torch.distributed.get_rank()
    for adapter in (LORA, OSFT):
        config = Config.model_validate({"model": "toy", "adapter": adapter, "zero_stage": 3})
        model, _ = shaken(config)
        engine = ZeroEngine(model, config)
        comm = Collectives(engine.device)
        results.append(
            {
                name: plain(scorer(name).score(engine.module, items()[rank::2], sync_max=comm.max))
                for name in ("choice_loglik", "exact_match")
            }
        )
        engine.close()
    return results


def shaken(config: Config) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Return an adapted model whose adapter is far from its start, and the plain one that it becomes."""
    model, base = build(), build()
    adapt(model, config.adapter)
    torch.manual_seed(1)
    for param in model.parameters():
        if param.requires_grad:
            torch.nn.init.normal_(param, std=0.2)
    base.load_state_dict(merged(model, config.adapter, model.state_dict()), strict=True)
    return model, base


def on_rank(root: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return train_and_save(root), ask_live()


Ranks = list[tuple[list[dict[str, Any]], list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapted")


@pytest.fixture(scope="module")
def ranks(models: Path) -> Ranks:
    """What two ranks found; all in one pair of processes, since their imports take longest."""
    return run_workers(on_rank, 2, str(models))


def test_training_equals_plain_torch_world_2(ranks: Ranks) -> None:
    for index, variant in enumerate(VARIANTS):
        config = make_config(variant, micro_batch_size=6)
        model = adapted(config)
        state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        found = ranks[0][0][index]
        alone = config.model_copy(update={"zero_stage": 0})
        engine = PlainEngine(model, alone)
        TrainingLoop(alone, engine, Rowset(INJECTION), Rowset(MASTERED), pad_id=0).run()
        names = [name for name, param in model.named_parameters() if param.requires_grad]
        assert found["num_params"] == engine.num_params == sum(state[name].numel() for name in names)
        assert found["state"].keys() == state.keys()
        for name in state.keys() - set(names):
            assert torch.equal(found["state"][name], state[name]), f"{name} is frozen and moved"
        ours, theirs = (
            torch.cat([of[name].flatten() for name in names]) for of in (found["state"], model.state_dict())
        )
        start = torch.cat([state[name].flatten() for name in names])
        # a thousandth of one update; a mask that flips by rounding makes a whole one
        assert ((ours - theirs).abs() <= 1e-3 * LR).double().mean() >= 0.999, variant
        assert (ours - start).abs().mean() > LR / 10


def test_saved_model_is_an_ordinary_one_that_answers_as_the_live_one_world_2(ranks: Ranks, models: Path) -> None:
    for index, (found, other) in enumerate(zip(ranks[0][0], ranks[1][0], strict=True)):
        bfloat16 = index == len(VARIANTS)
        live = found["logits"]
        assert torch.equal(live, other["logits"])
        saved = AutoModelForCausalLM.from_pretrained(models / str(index), attn_implementation="eager")
        assert saved.dtype == (torch.bfloat16 if bfloat16 else torch.float32)
        assert {name for name, _ in saved.named_parameters()} == {
            name for name, _ in toy_model(tied=True).named_parameters()
        }
        with torch.no_grad():
            difference = (saved(input_ids=IDS).logits.float() - live).abs().max()
            moved = (toy_model(tied=True).eval()(input_ids=IDS).logits - live).abs().max()
        assert difference <= (moved / 10 if bfloat16 else 1e-5)


def test_live_model_is_asked_as_the_plain_one_that_it_becomes_world_2(ranks: Ranks) -> None:
    for index, adapter in enumerate((LORA, OSFT)):
        _, base = shaken(Config.model_validate({"model": "toy", "adapter": adapter}))
        for name in ("choice_loglik", "exact_match"):
            expected = plain(scorer(name).score(base, items()))
            for rank, (_, asked) in enumerate(ranks):
                for (*what, scores), (*wanted, wanted_scores) in zip(
                    asked[index][name], expected[rank::2], strict=True
                ):
                    assert what == wanted
                    assert scores == pytest.approx(wanted_scores, abs=1e-4)
