"""Checkpoints of another format are refused, with the way out, before anything is loaded."""

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
    with pytest.raises(ResumeError, match=r"step_00000004 has format version 1, this is 2; finish the run"):
        check_resumable(found, world_size=2, zero_stage=2)


def test_this_version_is_read_and_a_later_version_is_refused(tmp_path: Path) -> None:
    write_manifest(tmp_path / "this", format_version=FORMAT_VERSION)
    found = latest_checkpoint(tmp_path / "this")
    assert found is not None
    check_resumable(found, world_size=2, zero_stage=2)
    write_manifest(tmp_path, format_version=FORMAT_VERSION + 1)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    with pytest.raises(ResumeError, match=r"step_00000004 has format version 3, this is 2"):
        check_resumable(found, world_size=2, zero_stage=2)
