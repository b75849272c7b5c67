"""Checkpoints in the run folder: written whole or not at all, verified before anything is loaded.

`<run>/train/checkpoints/step_00000012/`: DeepSpeed's shards, one safetensors file per rank (mastered and random state),
`state.json` (cursors and sums) and last `manifest.json` with the sha256 of every file.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file

from cpl_ray.atomic import atomic_write_text, flush_files, flush_names
from cpl_ray.collectives import Collectives
from cpl_ray.errors import ResumeError, StorageError
from cpl_ray.optimizer import CPLOptimizer
from cpl_ray.state_bytes import state_bytes
from cpl_ray.storage import refusal, writing

CHECKPOINTS = Path("train", "checkpoints")
"""In a run folder."""
FORMAT_VERSION = 2
"""Of checkpoints; those without a version are of the first."""
RNG = "rng."
_MANIFEST = "manifest.json"
PARTS = ".step_*.part"
"""Checkpoints being written, and what is left of those that were not finished."""


class Saves(Protocol):
    """What a checkpoint needs of an engine."""

    optimizer: CPLOptimizer
    replicas: int
    """Ranks that hold the same state: all of them, or one where it is partitioned."""

    @property
    def device(self) -> torch.device: ...
    def save(self, folder: Path) -> None: ...
    def load(self, folder: Path) -> None: ...


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    folder: Path
    step: int
    world_size: int
    zero_stage: int
    files: dict[str, str]
    """sha256 by relative path."""
    format_version: int = FORMAT_VERSION

    def state(self) -> dict[str, Any]:
        """Return the loop's cursors and sums."""
        return json.loads((self.folder / "state.json").read_text(encoding="utf-8"))

    def verify(self) -> None:
        """Compare what lies in the folder with the manifest: these files and no others, each with its digest.

        DeepSpeed chooses by itself which of the files it reads, so none may lie there that nobody has vouched for. All
        are written before the folder takes its name, and nothing is added afterwards.

        Raises:
            ResumeError: a file is missing, was changed or added, or is a link.
        """
        found = dict(_entries(self.folder))
        for name in self.files:
            if name not in found:
                raise _damaged(self.folder, self.folder / name)
        for name, regular in found.items():
            if not regular or name not in self.files:
                raise _foreign(self.folder, self.folder / name)
            if _sha256(self.folder / name) != self.files[name]:
                raise _damaged(self.folder, self.folder / name)


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest complete checkpoint below `folder`, or None.

    Raises:
        ResumeError: its manifest is damaged.
    """
    found = sorted(path for path in folder.glob("step_*") if (path / _MANIFEST).is_file())
    if not found:
        return None
    path = found[-1] / _MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        step, world_size, zero_stage = (int(manifest[name]) for name in ("step", "world_size", "zero_stage"))
        version = int(manifest.get("format_version", 1))
        return Checkpoint(found[-1], step, world_size, zero_stage, dict(manifest["files"]), version)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise _damaged(found[-1], path) from error


def check_resumable(checkpoint: Checkpoint, *, world_size: int, zero_stage: int) -> None:
    """Refuse, before anything is loaded, another format or a partitioning other than the checkpoint's.

    Raises:
        ResumeError: other format version, other ZeRO stage, or other number of workers while states are partitioned.
    """
    if checkpoint.format_version != FORMAT_VERSION:
        raise ResumeError(
            f"{checkpoint.folder} has format version {checkpoint.format_version}, this is {FORMAT_VERSION}; finish the "
            "run with the version of cpl-ray that began it (environment.json), or start a new run"
        )
    if checkpoint.zero_stage != zero_stage:
        raise ResumeError(
            f"{checkpoint.folder} was written with ZeRO stage {checkpoint.zero_stage} and cannot be resumed with "
            f"stage {zero_stage}; set zero_stage={checkpoint.zero_stage}"
        )
    if checkpoint.world_size != world_size:
        raise ResumeError(
            f"{checkpoint.folder} was written by {checkpoint.world_size} workers and its states are partitioned by "
            f"that number; resume with cluster.num_workers={checkpoint.world_size}, or start a new run from the "
            f"weights (asked for: {world_size})"
        )


def save_checkpoint(
    engine: Saves, comm: Collectives, folder: Path, *, step: int, zero_stage: int, state: dict[str, Any], keep: int
) -> None:
    """Write a checkpoint into the shared run folder; all ranks call. Older ones beyond `keep` are then deleted.

    Raises:
        StorageError: there is no room for it, or the folder is read-only; on every rank, before anything is written.
        OSError: writing failed, perhaps on this rank alone; the others wait for it, so somebody has to end them.
    """
    part = folder / f".step_{step:08d}.part"
    _check_room(engine, comm, folder)
    if comm.rank == 0:
        with writing(part):
            part.mkdir()
    comm.barrier()
    try:
        with writing(part):
            engine.save(part)
        own = _rank_file(part, comm.rank)
        with writing(own):
            save_file({**engine.optimizer.mastered_tensors(), **_random_state(engine.device)}, own)
        comm.barrier()
        if comm.rank == 0:
            with writing(part):
                _complete(part, step, comm.world_size, zero_stage, state)
                final = folder / f"step_{step:08d}"
                shutil.rmtree(final, ignore_errors=True)  # of a lost attempt: the same bytes
                part.rename(final)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)  # its room may be all there is for saying what happened
        raise
    if comm.rank == 0:
        flush_names(folder)
        for old in sorted(folder.glob("step_*"))[:-keep]:
            shutil.rmtree(old, ignore_errors=True)  # what cannot be deleted now is when the next one is there
    comm.barrier()


def _complete(part: Path, step: int, world_size: int, zero_stage: int, state: dict[str, Any]) -> None:
    """Add the loop's state and, last, the digests of all files; everything is on disk when this returns."""
    (part / "state.json").write_text(json.dumps(state), encoding="utf-8")
    flush_files(part)
    files = {name: _sha256(part / name) for name, _ in sorted(_entries(part))}
    about = {"format_version": FORMAT_VERSION, "step": step, "world_size": world_size, "zero_stage": zero_stage}
    manifest = {**about, "files": files}
    atomic_write_text(part / _MANIFEST, json.dumps(manifest, indent=1))


def _check_room(engine: Saves, comm: Collectives, folder: Path) -> None:
    """Delete what unfinished checkpoints left and see that the next one has room, as far as can be told beforehand.

    Raises:
        StorageError: it has none; on every rank.
    """
    kept = sum(tensor.numel() * tensor.element_size() for tensor in engine.optimizer.flat_params)
    num_bytes = comm.sum([float(kept + state_bytes(engine.optimizer))])[0] / engine.replicas
    problem: StorageError | None = None
    if comm.rank == 0:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(PARTS):
            shutil.rmtree(left, ignore_errors=True)
        problem = refusal(folder, int(num_bytes))
    if comm.max(int(problem is not None)):
        raise problem or StorageError(f"no checkpoint can be written into {folder} (see rank 0)")


def load_checkpoint(engine: Saves, comm: Collectives, checkpoint: Checkpoint, *, zero_stage: int) -> dict[str, Any]:
    """Verify and restore a checkpoint on all ranks; return the loop's state.

    Raises:
        ResumeError: other partitioning, or damaged files; on every rank, nothing loaded.
    """
    check_resumable(checkpoint, world_size=comm.world_size, zero_stage=zero_stage)
    damage: ResumeError | None = None
    try:
        if comm.rank == 0:
            checkpoint.verify()
    except ResumeError as error:
        damage = error
    if comm.sum([float(damage is not None)])[0]:
        raise damage or ResumeError(f"checkpoint {checkpoint.folder} is damaged (see rank 0)")
    engine.load(checkpoint.folder)
    tensors = load_file(_rank_file(checkpoint.folder, comm.rank))
    mastered = {key: value for key, value in tensors.items() if not key.startswith(RNG)}
    if mastered:
        engine.optimizer.load_mastered_tensors(mastered)
    torch.set_rng_state(tensors[f"{RNG}cpu"])
    if f"{RNG}cuda" in tensors:
        torch.cuda.set_rng_state(tensors[f"{RNG}cuda"], engine.device)
    return checkpoint.state()


def _random_state(device: torch.device) -> dict[str, torch.Tensor]:
    states = {f"{RNG}cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states[f"{RNG}cuda"] = torch.cuda.get_rng_state(device)
    return states


def _damaged(folder: Path, path: Path) -> ResumeError:
    return ResumeError(
        f"checkpoint file {path} is missing or damaged; delete the folder {folder.name} "
        "to resume from the checkpoint before it"
    )


def _foreign(folder: Path, path: Path) -> ResumeError:
    return ResumeError(
        f"checkpoint {folder} holds {path.relative_to(folder)}, which its manifest does not list as a file, and is not "
        f"loaded; delete that if you know what it is, or delete the folder {folder.name} to resume from the checkpoint "
        "before it"
    )


def _entries(folder: Path) -> Iterator[tuple[str, bool]]:
    """Yield all that lies in a checkpoint but folders and its manifest: relative path, and whether it is a file.

    A link is none, wherever it points to, and is not followed.
    """
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink() or (name in files and relative != _MANIFEST):
                yield relative, path.is_file() and not path.is_symlink()


def _rank_file(folder: Path, rank: int) -> Path:
    return folder / f"rank_{rank:05d}.safetensors"


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
