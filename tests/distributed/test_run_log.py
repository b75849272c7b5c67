"""Logs of two ranks on DeepSpeed: a file each, checkpoints and the resume in both."""

import json
from pathlib import Path

import pytest

from cpl_ray.run_log import Place, log_path, logged
from tests.distributed.launch import run_workers
from tests.distributed.test_resume import VARIANTS, make_config
from tests.oracle.toy import Rowset, toy_items, toy_model

pytestmark = pytest.mark.distributed


def train_twice(root: str) -> None:
    import torch.distributed as dist

    from cpl_ray.engine import ZeroEngine
    from cpl_ray.loop import TrainingLoop

    folder = Path(root)
    place = Place(folder.name, rank=dist.get_rank())
    for max_steps in (3, 4):  # the checkpoint of update 2 is what the second begins with
        config = make_config(VARIANTS[2], max_steps)
        engine = ZeroEngine(toy_model(), config)
        sets = Rowset(toy_items(9, seed=2)), Rowset(toy_items(7, seed=1))
        with logged(folder, place):
            TrainingLoop(config, engine, *sets, pad_id=0, run_folder=folder, zero_stage=2, place=place).run()
        engine.close()


def test_every_rank_tells_checkpoints_and_the_resume_world_2(tmp_path: Path) -> None:
    run_workers(train_twice, 2, str(tmp_path))
    for rank in range(2):
        lines = [json.loads(line) for line in log_path(tmp_path, rank).read_text().splitlines()]
        assert {line["rank"] for line in lines} == {rank}
        told = [(line["event"], line["step"]) for line in lines]
        first = [("started", 0), ("checkpoint", 2), ("ended", 3)]
        assert told == [*first, ("resumed", 2), ("started", 2), ("checkpoint", 4), ("ended", 4)]
