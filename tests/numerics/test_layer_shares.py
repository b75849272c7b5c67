"""What the loop records by layer equals, in float64 to the last element, what the transcription's masks say."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cpl_ray import loop
from cpl_ray.config import Config
from cpl_ray.errors import LayoutError
from cpl_ray.loop import TrainingLoop
from tests.oracle import transcription
from tests.oracle.plain_engine import PlainEngine
from tests.oracle.toy import Rowset, toy_items, toy_model

MASTERED, INJECTION = toy_items(7, seed=1), toy_items(5, seed=2)
FRAGMENTS = {
    "embed_tokens": "embed_tokens",
    "layer.00": "layers.0.",
    "layer.01": "layers.1.",
    "norm": "model.norm",
    "lm_head": "lm_head",
}


def recorded(folder: Path, **train: Any) -> list[dict[str, Any]]:
    settings: dict[str, Any] = {"refresh": "epoch", "epochs": 2, "micro_batch_size": 1, "shuffle": False}
    settings |= {"max_grad_norm": None, "checkpoint_every": None, **train}
    values = {"model": "toy", "optimizer": {"name": "adamw", "lr": 1e-3}, "train": settings}
    config = Config.model_validate(values)
    engine = PlainEngine(toy_model(torch.float64), config)
    folder.mkdir()
    TrainingLoop(config, engine, Rowset(INJECTION), Rowset(MASTERED), pad_id=0, run_folder=folder).run()
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def of_kind(records: list[dict[str, Any]], kind: str) -> dict[int, dict[str, float]]:
    return {
        r["step"]: {key: r[key] for key in r if key not in ("step", "kind", "time")}
        for r in records
        if r["kind"] == kind
    }


@pytest.mark.parametrize("mastered_state", ["sign", "full"])
def test_shares_and_flips_are_those_of_the_masks(tmp_path: Path, mastered_state: str) -> None:
    records = recorded(tmp_path / "run", mastered_state=mastered_state)
    model = toy_model(torch.float64)
    masks: list[list[torch.Tensor]] = []
    transcription.train(model, MASTERED, INJECTION, optimizer="adamw", lr=1e-3, epochs=2, masks=masks)
    names = [name for name, _ in model.named_parameters()]
    shares: dict[int, dict[str, Any]] = {}
    flips: dict[int, dict[str, Any]] = {}
    for update, opposed in enumerate(masks):
        shares[update + 1], flips[update + 1] = {}, {}
        for layer, fragment in FRAGMENTS.items():
            chosen = [index for index, name in enumerate(names) if fragment in name]
            now = torch.cat([opposed[index].view(-1) for index in chosen])
            before = torch.cat([masks[update - 1][index].view(-1) for index in chosen])
            shares[update + 1][layer] = pytest.approx(1 - float(now.double().mean()), abs=1e-12)
            flips[update + 1][layer] = pytest.approx(float((now != before).double().mean()), abs=1e-12)
    del flips[1]
    assert of_kind(records, "layers") == shares
    assert of_kind(records, "layer_flips") == flips
    assert len({share for values in of_kind(records, "layers").values() for share in values.values()}) > 20


def test_recorded_at_planned_updates_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LAYER_RECORDS", 3)
    records = recorded(tmp_path / "run")  # 10 updates, every third
    assert list(of_kind(records, "train")) == list(range(1, 11))
    assert list(of_kind(records, "layers")) == list(of_kind(records, "layer_flips")) == [3, 6, 9]
    assert list(of_kind(records, "layers")[3]) == list(FRAGMENTS)
    every = of_kind(recorded(tmp_path / "dense", max_steps=2), "layers")  # fewer updates than records: every one
    assert list(every) == [1, 2]


def test_plain_fine_tuning_records_no_layers(tmp_path: Path) -> None:
    assert {record["kind"] for record in recorded(tmp_path / "run", rule="none")} == {"train"}


def test_training_goes_on_where_the_layout_cannot_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(engine: PlainEngine) -> None:
        raise LayoutError("_hp_mapping is gone")

    told = recorded(tmp_path / "told")
    monkeypatch.setattr(PlainEngine, "layout", fail)
    untold = recorded(tmp_path / "untold")
    losses = [[r["loss_injection"] for r in run if r["kind"] == "train"] for run in (told, untold)]
    assert losses[0] == losses[1]
    assert {r["kind"] for r in untold} == {"train"}
