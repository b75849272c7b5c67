"""What a run was made with: versions, machine and source state, for reports of errors and for repeating a run.

Holds no secrets: no host or user name, no paths, and of the environment variables only the few listed here.
"""

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "cpl-ray",
    "ray",
    "torch",
    "deepspeed",
    "transformers",
    "tokenizers",
    "safetensors",
    "datasets",
    "mlflow",
    "lm_eval",
    "numpy",
    "pandas",
    "pyarrow",
    "scipy",
    "pydantic",
    "typer",
    "rich",
)
_VARIABLES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "HF_HUB_OFFLINE", "RAY_TRAIN_V2_ENABLED")
_COMMAND_TIMEOUT_S = 10.0


def snapshot(folder: str | Path | None = None) -> dict[str, Any]:
    """Describe this process's environment as a JSON-serialisable mapping, without importing torch.

    Args:
        folder: where the user's own files are; None: the working folder.

    Returns:
        `versions` (distribution to version, null where not installed), `python`, `platform`, `machine`, `num_cpus`
        (usable by this process), `memory_bytes`, `gpus` (name, memory and driver of each), `git` (`commit` and
        `dirty` of the repository that cpl-ray runs from, null where it is an installed package), `project_git` (the
        same of `folder`, null outside a repository), `variables`.
    """
    return {
        "versions": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "num_cpus": _num_cpus(),
        "memory_bytes": _memory_bytes(),
        "gpus": _gpus(),
        "git": _own_git(Path(__file__).resolve()),
        "project_git": _git(Path(folder) if folder is not None else Path.cwd()),
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _num_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not a POSIX system, or it does not say
        return None


def _output(command: list[str], folder: Path | None = None) -> str | None:
    """Return what `command` prints, or None where it is not installed, fails or hangs."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _gpus() -> list[dict[str, str]]:
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    lines = (_output(query) or "").splitlines()
    columns = [[cell.strip() for cell in line.split(",")] for line in lines]
    return [dict(zip(("name", "memory", "driver"), cells, strict=True)) for cells in columns if len(cells) == 3]


def _own_git(source: Path) -> dict[str, Any] | None:
    """Return the state of the repository that keeps the file `source`.

    A file merely inside a repository, as in the `.venv` of a project, says nothing about that one's commit.
    """
    if _output(["git", "ls-files", "--error-unmatch", "--", source.name], source.parent) is None:
        return None
    return _git(source.parent)


def _git(folder: Path) -> dict[str, Any] | None:
    commit = _output(["git", "rev-parse", "HEAD"], folder)
    if commit is None:
        return None
    status = _output(["git", "status", "--porcelain", "--untracked-files=no"], folder)
    return {"commit": commit, "dirty": status is None or bool(status)}
