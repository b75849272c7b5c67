"""The contract with DeepSpeed's partitions: every element of every parameter in one place, and its value there.

And what is counted by layer over the ranks equals what a plain computation in one process finds.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cpl_ray.config import Config
from cpl_ray.loop import TrainingLoop
from tests.distributed.launch import run_workers
from tests.oracle import transcription
from tests.oracle.toy import Rowset, toy_items, toy_model

pytestmark = pytest.mark.distributed
MASTERED, INJECTION = toy_items(8, seed=1), toy_items(12, seed=2)
SUB_GROUPS = {"zero_optimization": {"sub_group_size": 1500}}
ALIGNED = {"zero_optimization": {"parameter_alignment": True}}
BF16 = {"dtype": "bfloat16"}
VARIANTS: list[dict[str, Any]] = [
    {"zero_stage": 0},
    {"zero_stage": 1},
    {"zero_stage": 2},
    {"zero_stage": 3},
    {"zero_stage": 1, "offload_optimizer": True},
    {"zero_stage": 2, "offload_optimizer": True},
    {"zero_stage": 3, "offload_optimizer": True},
    {"zero_stage": 2, "deepspeed": ALIGNED},
    {"zero_stage": 3, "deepspeed": SUB_GROUPS},
    {"zero_stage": 3, "deepspeed": SUB_GROUPS, "offload_optimizer": True},
    {"zero_stage": 0, "train": BF16},
    {"zero_stage": 1, "train": BF16},
    {"zero_stage": 2, "train": BF16},
    {"zero_stage": 2, "train": BF16, "offload_optimizer": True},
    {"zero_stage": 3, "train": BF16, "deepspeed": SUB_GROUPS},
]
LAYERS = ("embed_tokens", "layer.00", "layer.01", "norm", "lm_head")


def make_config(variant: dict[str, Any], **train: Any) -> Config:
    settings: dict[str, Any] = {"micro_batch_size": 2, "shuffle": False, "refresh": "epoch", "max_grad_norm": None}
    settings |= {"checkpoint_every": None, **train}
    optimizer = variant.get("optimizer", {"name": "adamw", "lr": 1e-3, "weight_decay": 0.1})
    values = {**variant, "optimizer": optimizer, "train": {**settings, **variant.get("train", {})}}
    return Config.model_validate({"model": "toy", **values})


def odd_model(dtype: torch.dtype, tied: bool) -> nn.Module:
    """Return the toy model with a parameter that no number of ranks divides, trained by none, and a frozen one."""
    model = toy_model(dtype, tied=tied)
    model.register_parameter("odd", nn.Parameter(torch.linspace(-1, 1, 7, dtype=dtype)))
    dict(model.named_parameters())["model.norm.weight"].requires_grad_(False)
    return model


def layouts(variants: list[dict[str, Any]], tied: bool) -> list[dict[str, Any]]:
    """Return for every variant this rank's pieces with the values there, and all weights, after two updates."""
    from cpl_ray.engine import ZeroEngine

    found = []
    for variant in variants:
        config = make_config(variant, max_steps=2)
        dtype = torch.bfloat16 if config.train.dtype == "bfloat16" else torch.float32
        engine = ZeroEngine(odd_model(dtype, tied), config)
        early = engine.layout()
        TrainingLoop(config, engine, Rowset(INJECTION), Rowset(MASTERED), pad_id=0).run()
        layout = engine.layout()
        assert layout == early, variant
        held = [flat.detach().reshape(-1) for flat in engine.optimizer.flat_params]
        pieces = [
            [(piece.name, piece.shape, piece.start, flat[piece.part].clone()) for piece in of_flat]
            for flat, of_flat in zip(held, layout.flats, strict=True)
        ]
        weights = {name: tensor.detach().clone() for name, tensor in engine.state_dict().items()}
        sizes = [flat.numel() for flat in held]
        found.append({"shapes": layout.shapes, "pieces": pieces, "weights": weights, "sizes": sizes})
        engine.close()
    return found


@pytest.mark.parametrize(
    ("world_size", "tied", "which"), [(2, False, "all"), (2, True, "1 and 3"), (3, False, "0 to 3")]
)
def test_every_element_is_in_one_place_with_its_value(world_size: int, tied: bool, which: str) -> None:
    variants = {"all": VARIANTS, "0 to 3": VARIANTS[:4], "1 and 3": VARIANTS[1:4:2]}[which]
    trainable = {n: tuple(p.shape) for n, p in odd_model(torch.float32, tied).named_parameters() if p.requires_grad}
    results = run_workers(layouts, world_size, variants, tied)
    for index, variant in enumerate(variants):
        weights = results[0][index]["weights"]
        seen = {name: torch.zeros(shape, dtype=torch.int64).view(-1) for name, shape in trainable.items()}
        for rank in range(world_size):
            found = results[rank][index]
            assert found["shapes"] == trainable, variant
            assert list(found["shapes"]) == list(trainable), variant
            for name, shape, start, values in (piece for flat in found["pieces"] for piece in flat):
                assert shape == trainable[name], (variant, name)
                here = slice(start, start + values.numel())
                seen[name][here] += 1
                expected = weights[name].reshape(-1)[here]
                assert torch.equal(values.to(expected.dtype), expected), (variant, rank, name)
        times = world_size if make_config(variant).running_zero_stage == 0 else 1
        wrong = [name for name, count in seen.items() if not bool((count == times).all())]
        assert not wrong, (variant, wrong)
        if "deepspeed" in variant and variant["deepspeed"] is SUB_GROUPS:
            assert len(results[0][index]["sizes"]) > 2


def train_and_record(values: list[dict[str, Any]], root: str) -> None:
    from cpl_ray.engine import ZeroEngine

    for index, value in enumerate(values):
        config = Config.model_validate(value)
        folder = Path(root, str(index))
        folder.mkdir(exist_ok=True)
        engine = ZeroEngine(toy_model(), config)
        loop = TrainingLoop(
            config, engine, Rowset(INJECTION), Rowset(MASTERED), pad_id=0, run_folder=folder, zero_stage=engine.stage
        )
        loop.run()
        engine.close()


def shares_by_layer(optimizer: dict[str, Any]) -> list[dict[str, tuple[float, float, int]]]:
    """Return by update and layer the collaborative share, the flip rate and the number of elements."""
    model = toy_model()
    masks: list[list[torch.Tensor]] = []
    transcription.train(
        model,
        MASTERED,
        INJECTION,
        optimizer=optimizer["name"],
        lr=optimizer["lr"],
        weight_decay=optimizer.get("weight_decay", 0.0),
        epochs=2,
        batch=4,
        masks=masks,
    )
    names = [name for name, _ in model.named_parameters()]
    fragments = dict(zip(LAYERS, ("embed_tokens", "layers.0.", "layers.1.", "model.norm", "lm_head"), strict=True))
    found: list[dict[str, tuple[float, float, int]]] = []
    for update, opposed in enumerate(masks):
        found.append({})
        for layer, fragment in fragments.items():
            chosen = [i for i, name in enumerate(names) if fragment in name]
            now = torch.cat([opposed[i].view(-1) for i in chosen])
            before = torch.cat([masks[max(0, update - 1)][i].view(-1) for i in chosen])
            found[-1][layer] = (1 - float(now.double().mean()), float((now != before).double().mean()), now.numel())
    return found


OPTIMIZERS = [{"name": "sgd", "lr": 1e-3}, {"name": "adamw", "lr": 1e-3, "weight_decay": 0.1}]
MEASURED: list[dict[str, Any]] = [
    {**variant, "optimizer": optimizer}
    for optimizer in OPTIMIZERS
    for variant in ({"zero_stage": 0}, {"zero_stage": 2}, {"zero_stage": 3, "deepspeed": SUB_GROUPS})
] + [
    {"zero_stage": 1, "optimizer": OPTIMIZERS[1], "train": {"mastered_state": "full"}},
    {"zero_stage": 2, "optimizer": {"name": "torch.optim.SGD", "lr": 1e-3}, "offload_optimizer": True},
]


def test_shares_by_layer_equal_those_of_one_plain_process_world_2(tmp_path: Path) -> None:
    configs = [make_config(variant, epochs=2) for variant in MEASURED]
    run_workers(train_and_record, 2, [config.model_dump() for config in configs], str(tmp_path))
    references = {optimizer["name"]: shares_by_layer(optimizer) for optimizer in OPTIMIZERS}
    references["torch.optim.SGD"] = references["sgd"]
    for index, variant in enumerate(MEASURED):
        expected = references[variant["optimizer"]["name"]]
        lines = (tmp_path / str(index) / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        by_kind = {kind: [r for r in records if r["kind"] == kind] for kind in ("train", "layers", "layer_flips")}
        assert [r["step"] for r in by_kind["layers"]] == [1, 2, 3, 4, 5, 6]
        assert [r["step"] for r in by_kind["layer_flips"]] == [2, 3, 4, 5, 6]
        for kind, column in (("layers", 0), ("layer_flips", 1)):
            for record in by_kind[kind]:
                assert tuple(key for key in record if key not in ("step", "kind", "time")) == LAYERS
                for layer, values in expected[record["step"] - 1].items():
                    # rounding moves a few elements with g_M or u near zero to the other side
                    bound = max(2, 0.004 * values[2]) / values[2]
                    assert abs(record[layer] - values[column]) <= bound, (variant, kind, record["step"], layer)
        numel = {layer: values[2] for layer, values in expected[0].items()}
        for whole, parts in zip(by_kind["train"], by_kind["layers"], strict=True):
            mean = sum(parts[layer] * numel[layer] for layer in LAYERS) / sum(numel.values())
            assert whole["collaborative_share"] == pytest.approx(mean, abs=1e-12), variant
        for whole, parts in zip(by_kind["train"][1:], by_kind["layer_flips"], strict=True):
            mean = sum(parts[layer] * numel[layer] for layer in LAYERS) / sum(numel.values())
            assert whole["flip_rate"] == pytest.approx(mean, abs=1e-12), variant
