"""Checkpoints of earlier versions are read, those of later ones refused before anything is loaded."""

import json
from pathlib import Path

import pytest

from cpl_ray.checkpoint import FORMAT_VERSION, check_resumable, latest_checkpoint
from cpl_ray.errors import ResumeError


def write_manifest(folder: Path, **more: int) -> None:
    place = folder / "step_00000004"
    place.mkdir(parents=True)
    manifest = {"step": 4, "world_size": 2, "zero_stage": 2, "files": {}}
    (place / "manifest.json").write_text(json.dumps(manifest | more))


def test_a_checkpoint_without_a_version_is_of_the_first(tmp_path: Path) -> None:
    write_manifest(tmp_path)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert (found.format_version, found.step) == (1, 4)
    check_resumable(found, world_size=2, zero_stage=2)


def test_another_version_is_refused(tmp_path: Path) -> None:
    write_manifest(tmp_path, format_version=FORMAT_VERSION + 1)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    with pytest.raises(ResumeError, match=r"step_00000004 has format version 2, this is 1"):
        check_resumable(found, world_size=2, zero_stage=2)
