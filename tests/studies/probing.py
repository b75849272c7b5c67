"""A toy training on the plain engine, with or without a probe."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cpl_ray.config import Config
from cpl_ray.loop import TrainingLoop
from cpl_ray.probes.base import Probe
from tests.oracle.plain_engine import PlainEngine
from tests.oracle.toy import Rowset, toy_items, toy_model

MASTERED, INJECTION = toy_items(8, seed=1), toy_items(6, seed=2)


def toy_config(**train: Any) -> Config:
    settings = {"micro_batch_size": 3, "mastered_batch_size": 4, "epochs": 3, "max_grad_norm": 0.5, **train}
    return Config.model_validate(
        {"model": "toy", "train": settings, "optimizer": {"lr": 1e-2, "weight_decay": 0.1}, "zero_stage": 0}
    )


def train(
    config: Config, probe: Probe | None = None, *, dtype: torch.dtype = torch.float32, dropout: float = 0.0
) -> nn.Module:
    """Train a toy model and return it."""
    model = toy_model(dtype, dropout=dropout)
    loop = TrainingLoop(config, PlainEngine(model, config), Rowset(INJECTION), Rowset(MASTERED), pad_id=0, probe=probe)
    loop.run()
    return model


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def same(ours: nn.Module, other: nn.Module) -> bool:
    """Tell whether two models have the same weights, bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(weights(ours).values(), weights(other).values(), strict=True))


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    from cpl_ray.studies.findings import read_table

    return read_table(folder / f"{name}.parquet").to_pylist()
