"""Checkpoints on a full disk (world 2), on failing storage (world 1), and torn ones: the same bits in the end."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from cpl_ray.errors import ResumeError
from tests.distributed.launch import run_workers
from tests.distributed.test_resume import train_once
from tests.faults import mounts, shim
from tests.faults.tearing import cut, flip
from tests.faults.training import EVERY, STEPS, config_of, parts, same, steps

pytestmark = pytest.mark.distributed
ROOT = Path(__file__).resolve().parents[2]


def training(
    *arguments: str, before: tuple[str, ...] = (), environment: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    done = subprocess.run(
        [*before, sys.executable, "-m", "tests.faults.training", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.skipif(not mounts.possible(), reason=mounts.WHY_NOT)
def test_full_disk_ends_all_ranks_with_a_message_and_room_mends_it_world_2(tmp_path: Path) -> None:
    for rank, one in enumerate(training("full", str(tmp_path), before=mounts.PRIVATE)):
        assert f"{tmp_path}/small/train/checkpoints" in one["said"], rank
        assert one["whole"] == ["step_00000002"], rank
        assert one["done"] == [1, 2, 3, 4], rank
        assert one["same"], rank
        assert one["steps"] == list(range(1, STEPS + 1)), rank
        assert one["parts"] == [], rank
        if rank == 0:
            assert "No space left on device" in one["said"]


@pytest.mark.skipif(not shim.POSSIBLE, reason=shim.WHY_NOT)
def test_every_nth_write_fails_and_attempts_end_at_the_same_bits_world_1(tmp_path: Path) -> None:
    variables = shim.failing_storage(shim.build(tmp_path), tmp_path / "not yet", every=EVERY[0])
    found = training("failing", str(tmp_path), environment=variables)
    for every, one in zip(EVERY, found, strict=True):
        assert one["said"], every
        for said in one["said"]:
            assert "Input/output error" in said, every
            assert str(tmp_path / f"failing-{every}") in said, every
        assert one["same"], (every, one["said"])
        assert one["steps"] == list(range(1, STEPS + 1)), every
        assert one["parts"] == [], every
    files = {said.split("/")[-1] for one in found for said in one["said"]}
    assert len(files) > 2, files


def _other_list(folder: Path) -> None:
    (folder / "manifest.json").write_text("[1]")


def _half_written(folder: Path) -> None:
    folder.rename(folder.with_name(f".{folder.name}.part"))
    cut(folder.with_name(f".{folder.name}.part"), "*optim_states.pt")


TORN: dict[str, tuple[Callable[[Path], None], bool]] = {
    "a shard is cut": (lambda folder: cut(folder, "*optim_states.pt"), False),
    "a bit of a shard": (lambda folder: flip(folder, "*optim_states.pt"), False),
    "a bit of the weights": (lambda folder: flip(folder, "*model_states.pt"), False),
    "a rank's file is gone": (lambda folder: (folder / "rank_00000.safetensors").unlink(), False),
    "the state is cut": (lambda folder: cut(folder, "state.json"), False),
    "the manifest is cut": (lambda folder: cut(folder, "manifest.json"), False),
    "the manifest is another list": (_other_list, False),
    "the manifest is gone": (lambda folder: (folder / "manifest.json").unlink(), True),
    "half written": (_half_written, True),
}
"""What is done to the newest checkpoint, and whether training goes on from the one before by itself."""


def torn(root: str) -> dict[str, list[Any]]:
    calm = train_once(config_of(), Path(root, "calm"))
    train_once(config_of(5), Path(root, "begun"))
    found: dict[str, list[Any]] = {}
    for index, (name, (tear, _)) in enumerate(TORN.items()):
        folder = Path(root, str(index))
        shutil.copytree(Path(root, "begun"), folder)
        newest = folder / "train" / "checkpoints" / "step_00000004"
        tear(newest)
        said = ""
        try:
            resumed = train_once(config_of(), folder)
        except ResumeError as error:
            said = str(error)
            shutil.rmtree(newest)  # what the message asks for
            resumed = train_once(config_of(), folder)
        found[name] = [said, same(calm, resumed), torch.tensor(steps(folder)), parts(folder)]
    return found


def test_torn_checkpoint_is_noticed_and_the_one_before_leads_to_the_same_bits_world_1(tmp_path: Path) -> None:
    (found,) = run_workers(torn, 1, str(tmp_path))
    for name, (_, by_itself) in TORN.items():
        said, equal, made, left = found[name]
        assert equal, name
        assert made.tolist() == list(range(1, STEPS + 1)), name
        assert left == [], name
        if by_itself:
            assert said == "", name
        else:
            assert "is missing or damaged; delete the folder step_00000004" in said, name
            assert str(tmp_path) in said, name
