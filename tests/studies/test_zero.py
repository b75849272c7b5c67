"""Probes under ZeRO: on two processes they measure what one plain process does, and leave no trace."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cpl_ray.config import Config
from cpl_ray.loop import TrainingLoop
from cpl_ray.probes.base import Probe
from cpl_ray.probes.similarity import SimilarityProbe
from cpl_ray.probes.stability import StabilityProbe
from cpl_ray.probes.taylor import TaylorProbe
from cpl_ray.studies.findings import read_table
from tests.distributed.launch import run_workers
from tests.oracle.plain_engine import PlainEngine
from tests.oracle.toy import Rowset, toy_model
from tests.studies.probing import INJECTION, MASTERED

pytestmark = pytest.mark.distributed
WORLD_SIZE = 2
STAGES = (2, 3)


def probes(folder: Path) -> dict[str, Probe]:
    return {
        "similarity": SimilarityProbe(folder / "similarity", every=2, items=3),
        "taylor": TaylorProbe(folder / "taylor", every=2, rates=[1e-3, 1e-1]),
        "stability": StabilityProbe(folder / "stability", window=2),
    }


def settings(stage: int, micro: int) -> Config:
    train = {"micro_batch_size": micro, "mastered_batch_size": 4, "max_steps": 3, "shuffle": False}
    return Config.model_validate({"model": "toy", "train": train, "optimizer": {"lr": 1e-3}, "zero_stage": stage})


def zero_runs(folder: str) -> list[dict[str, torch.Tensor]]:
    """Train in each stage with each probe, and without any; return the weights."""
    from cpl_ray.engine import ZeroEngine

    found = []
    for stage in STAGES:
        for probe in (None, *probes(Path(folder, str(stage))).values()):
            config = settings(stage, 3)
            engine = ZeroEngine(toy_model(), config)
            TrainingLoop(config, engine, Rowset(INJECTION), Rowset(MASTERED), pad_id=0, probe=probe).run()
            found.append({name: tensor.detach().clone() for name, tensor in engine.state_dict().items()})
            engine.close()
    return found


def numbers(folder: Path, table: str) -> list[dict[str, Any]]:
    return read_table(folder / f"{table}.parquet").to_pylist()


def test_stages_world_2(tmp_path: Path) -> None:
    weights = run_workers(zero_runs, WORLD_SIZE, str(tmp_path))[0]
    kinds = 1 + len(probes(tmp_path))
    for start in range(0, len(weights), kinds):
        plain, *probed = weights[start : start + kinds]
        for other in probed:
            assert all(torch.equal(other[name], tensor) for name, tensor in plain.items()), start
    config = settings(0, 6)
    for probe in probes(tmp_path / "plain").values():
        loop = TrainingLoop(
            config, PlainEngine(toy_model(), config), Rowset(INJECTION), Rowset(MASTERED), pad_id=0, probe=probe
        )
        loop.run()
    tables = {"similarity": ("course", "parameters", "items"), "taylor": ("steps",), "stability": ("steps", "windows")}
    for stage in STAGES:
        for name, own in tables.items():
            for table in own:
                found = numbers(tmp_path / str(stage) / name, table)
                expected = numbers(tmp_path / "plain" / name, table)
                assert len(found) == len(expected)
                for a, b in zip(found, expected, strict=True):
                    assert close(a, b), (stage, name, table, a, b)


def close(ours: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tell whether two rows agree: counts up to elements whose s_j is zero but for rounding, numbers to 1e-3."""
    size = other.get("numel", 1)
    for key, value in other.items():
        if isinstance(value, float):
            if ours[key] != pytest.approx(value, rel=1e-3, abs=3e-6):
                return False
        elif isinstance(value, int):
            if abs(ours[key] - value) > 0.002 * size:
                return False
        elif ours[key] != value:
            return False
    return True
