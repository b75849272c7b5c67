"""The study `stability`: counts against masks worked out by the oracle, alarms against their thresholds."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from cpl_ray.config import Config
from cpl_ray.layout import layer_names
from cpl_ray.probes.stability import StabilityProbe
from cpl_ray.studies.stability import alarms, analyse
from tests.oracle import transcription
from tests.oracle.toy import toy_model
from tests.studies.probing import INJECTION, MASTERED, rows, same, toy_config, train


def test_the_probe_changes_nothing(tmp_path: Path) -> None:
    assert same(train(toy_config(), StabilityProbe(tmp_path, window=2), dropout=0.2), train(toy_config(), dropout=0.2))


def test_counts_are_those_of_the_masks(tmp_path: Path) -> None:
    settings = {"micro_batch_size": 3, "refresh": "epoch", "epochs": 3, "max_grad_norm": None, "shuffle": False}
    optimizer = {"name": "sgd", "lr": 1e-2}
    config = Config.model_validate({"model": "toy", "train": settings, "optimizer": optimizer, "zero_stage": 0})
    train(config, StabilityProbe(tmp_path, window=3), dtype=torch.float64)
    model = toy_model(torch.float64)
    layers = list(layer_names([name for name, _ in model.named_parameters()]).values())
    masks: list[list[torch.Tensor]] = []
    options: dict[str, Any] = {"optimizer": "sgd", "lr": 1e-2, "epochs": 3, "batch": 3, "masks": masks}
    transcription.train(model, MASTERED, INJECTION, **options)
    assert len(masks) == 6

    def count(values: list[torch.Tensor], layer: str) -> int:
        return sum(int(v.sum()) for v, own in zip(values, layers, strict=True) if own == layer)

    def differ(first: int, second: int) -> list[torch.Tensor]:
        return [a != b for a, b in zip(masks[first], masks[second], strict=True)]

    for row in rows(tmp_path, "steps"):
        step = row["step"] - 1
        assert row["conflict"] == count(masks[step], row["layer"])
        assert row["flips"] == (count(differ(step, step - 1), row["layer"]) if step else None)
    for row in rows(tmp_path, "epochs"):
        last = 2 * row["epoch"] - 1
        assert row["flips"] == count(differ(last, last - 2), row["layer"])
    windows = rows(tmp_path, "windows")
    assert {(row["first"], row["last"]) for row in windows} == {(1, 3), (4, 6)}
    for row in windows:
        start = row["first"] - 1
        changed = [
            a.int() + b.int() for a, b in zip(differ(start + 1, start), differ(start + 2, start + 1), strict=True)
        ]
        never = [one == 0 for one in changed]
        assert row["flips"] == count(changed, row["layer"])
        assert row["never_flipped"] == count(never, row["layer"])
        always = [a & b for a, b in zip(never, masks[start], strict=True)]
        assert row["always_conflicting"] == count(always, row["layer"])


def window(layer: str, flips: int, never: int) -> dict[str, Any]:
    return {
        "first": 1,
        "last": 11,
        "layer": layer,
        "numel": 100,
        "flips": flips,
        "never_flipped": never,
        "always_conflicting": never // 2,
    }


def test_alarms_are_raised_above_their_thresholds() -> None:
    lively, still, calm = window("a", 301, 10), window("b", 3, 97), window("c", 300, 95)
    found = alarms([lively, still, calm], flapping=0.3, stagnation=0.95)
    assert [(one["alarm"], one["layer"], one["value"]) for one in found] == [
        ("flapping", "a", pytest.approx(0.301)),
        ("stagnation", "b", pytest.approx(0.97)),
    ]


def test_the_verdict_says_what_the_numbers_say() -> None:
    steps = [
        {"step": 1, "layer": "a", "numel": 100, "conflict": 40, "flips": None},
        {"step": 2, "layer": "a", "numel": 100, "conflict": 40, "flips": 20},
    ]
    tables = {"steps": pa.Table.from_pylist(steps)}
    short = analyse(tables, flapping=0.3, stagnation=0.9)
    assert "20.0 % of the parameters change" in short.verdict
    assert "shorter than one window" in short.verdict
    with_window = analyse(
        {**tables, "windows": pa.Table.from_pylist([window("a", 10, 80)])}, flapping=0.3, stagnation=0.9
    )
    assert "80.0 % never change their class: 40.0 % are always collaborative, 40.0 % always" in with_window.verdict
    assert "No layer raised an alarm" in with_window.verdict
