"""A checkpoint is the files of its manifest and no others: DeepSpeed chooses by itself which of them it unpickles."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cpl_ray.checkpoint import FORMAT_VERSION, _complete, latest_checkpoint
from cpl_ray.errors import ResumeError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Make a checkpoint with a file of its own and one in a folder below."""
    place = tmp_path / "step_00000003"
    (place / "deepspeed").mkdir(parents=True)
    (place / "deepspeed" / "mp_rank_00_model_states.pt").write_bytes(b"states")
    (place / "rank_00000.safetensors").write_bytes(b"kept")
    _complete(place, 3, 1, 2, {"epoch": 1})
    return place


def verify(place: Path) -> None:
    found = latest_checkpoint(place.parent)
    assert found is not None
    found.verify()


def test_what_was_written_is_whole(place: Path) -> None:
    verify(place)
    manifest = json.loads((place / "manifest.json").read_text())
    assert sorted(manifest["files"]) == ["deepspeed/mp_rank_00_model_states.pt", "rank_00000.safetensors", "state.json"]
    assert manifest["files"]["rank_00000.safetensors"] == hashlib.sha256(b"kept").hexdigest()


def replace_by_link(path: Path) -> None:
    elsewhere = path.parents[2] / "elsewhere.pt"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


HARM: list[tuple[str, Callable[[Path], Any]]] = [
    ("mp_rank_01", lambda place: (place / "deepspeed" / "mp_rank_01_model_states.pt").write_bytes(b"evil")),
    ("zero_pp", lambda place: (place / "zero_pp_rank_0.pt").write_bytes(b"evil")),
    (".hidden", lambda place: (place / ".hidden.pt").write_bytes(b"evil")),
    ("manifest.json", lambda place: (place / "deepspeed" / "manifest.json").write_bytes(b"evil")),
    ("mp_rank_00", lambda place: (place / "deepspeed" / "mp_rank_00_model_states.pt").write_bytes(b"other")),
    ("mp_rank_00", lambda place: (place / "deepspeed" / "mp_rank_00_model_states.pt").unlink()),
    ("mp_rank_00", lambda place: replace_by_link(place / "deepspeed" / "mp_rank_00_model_states.pt")),
    ("more", lambda place: (place / "more").symlink_to(place / "deepspeed")),
]


@pytest.mark.parametrize(("name", "harm"), HARM)
def test_any_difference_is_refused(place: Path, name: str, harm: Callable[[Path], Any]) -> None:
    harm(place)
    with pytest.raises(ResumeError, match="delete the folder step_00000003") as caught:
        verify(place)
    assert name in str(caught.value)


@pytest.mark.parametrize("listed", [{}, {"state.json": "0" * 64}, {"../../etc/passwd": 5}])
def test_a_manifest_that_lists_other_files(place: Path, listed: dict[str, Any]) -> None:
    manifest = {"format_version": FORMAT_VERSION, "step": 3, "world_size": 1, "zero_stage": 2, "files": listed}
    (place / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ResumeError, match="step_00000003"):
        verify(place)


@pytest.mark.parametrize("text", ["[]", "{", '{"step": 1e400}', '{"step": NaN}', "[" * 100_000, '{"step": "x"}'])
def test_a_manifest_that_is_none(place: Path, text: str) -> None:
    (place / "manifest.json").write_text(text)
    with pytest.raises(ResumeError, match=r"manifest\.json is missing or damaged"):
        verify(place)
