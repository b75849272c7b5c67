"""Storage that is full, read-only or fails: nothing half-written is taken for whole, and messages name the place."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cpl_ray.storage import refusal, storage_error, writing
from pipelines.console import user_error
from tests.faults import mounts, shim
from tests.faults.writers import EVERY

ROOT = Path(__file__).resolve().parents[2]


def writers(
    *arguments: str, before: tuple[str, ...] = (), environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    done = subprocess.run(
        [*before, sys.executable, "-m", "tests.faults.writers", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(environment or {})},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.skipif(not mounts.possible(), reason=mounts.WHY_NOT)
@pytest.mark.parametrize(("what", "code"), [("full", errno.ENOSPC), ("read_only", errno.EROFS)])
def test_what_cannot_be_written_leaves_the_old_and_says_where(tmp_path: Path, what: str, code: int) -> None:
    found = writers(what, str(tmp_path), before=mounts.PRIVATE)
    assert set(found) == {"text", "tensors", "pickled", "ledger", "records"}
    for name, one in found.items():
        assert one["said"]["errno"] == code, name
        assert one["said"]["file"].startswith(str(tmp_path / name)), name
        assert one["left"] == [], name
        assert one["again"] == {"errno": 0}, name
        assert one["new"], name
        # the record of a run is no file to be replaced: what it held before belongs to an earlier attempt
        assert one["kept"] or (name == "records" and what == "full"), name


@pytest.mark.skipif(not shim.POSSIBLE, reason=shim.WHY_NOT)
def test_every_nth_write_fails_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    place = tmp_path / "storage"
    found = writers(
        "failing",
        str(place),
        environment=shim.failing_storage(shim.build(tmp_path), tmp_path / "not yet", every=EVERY[0]),
    )
    assert set(found) == {str(every) for every in EVERY}
    for every, one in found.items():
        assert one["wrong"] == [], every
        assert one["left"] == [], every
        assert all(one["failures"].values()), every


def test_a_failure_gets_the_file_that_libraries_leave_out() -> None:
    for error in (OSError(28, "No space left on device"), RuntimeError("I/O error: No space left (os error 28)")):
        with pytest.raises(OSError, match=r"No space left on device: '/runs/model'") as caught, writing("/runs/model"):
            raise error
        told = storage_error(caught.value)
        assert told is not None
        assert str(told).startswith("cannot write /runs/model: No space left on device; free some space there")
    with pytest.raises(FileNotFoundError) as missing, writing("/runs/model"):
        Path("/nowhere/at/all").read_text()
    assert storage_error(missing.value) is None
    with pytest.raises(RuntimeError, match="shapes"), writing("/runs/model"):
        raise RuntimeError("shapes differ")


def test_a_failure_of_storage_is_told_without_a_traceback() -> None:
    wrapped = RuntimeError("a task failed")
    wrapped.__cause__ = OSError(errno.EROFS, os.strerror(errno.EROFS), "/runs/a/result.json")
    assert str(user_error(wrapped)).startswith("cannot write /runs/a/result.json: Read-only file system; have it")
    assert user_error(OSError(errno.ECONNREFUSED, "Connection refused")) is None


def test_room_is_looked_for_before_a_checkpoint_is_begun(tmp_path: Path) -> None:
    assert refusal(tmp_path, 1) is None
    said = str(refusal(tmp_path, 1 << 62))
    assert str(tmp_path) in said
    assert "No space left on device (4,611,686,018,427,387,904 bytes are needed" in said
    assert list(tmp_path.iterdir()) == []
