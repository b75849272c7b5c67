"""The run folder: where every output of a run lies, and which run may be begun, continued or overwritten.

What is written there goes through `atomic_write_text`, `atomic_write_bytes` and `atomic_folder`: whole or not at all.
"""

import json
import re
import secrets
import shutil
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from cpl_ray.atomic import atomic_folder, atomic_write_bytes, atomic_write_text, remove_leftovers
from cpl_ray.config import Config
from cpl_ray.errors import ConfigError, DataError, ResumeError
from cpl_ray.loading import dump_config
from cpl_ray.lock import LOCK_NAME, hold
from cpl_ray.storage import try_writing
from cpl_ray.tracking_uri import redact

__all__ = [
    "MEASURED",
    "TRAINED",
    "RunDir",
    "atomic_folder",
    "atomic_write_bytes",
    "atomic_write_text",
    "check_writable",
    "read_json",
]

TRAINED = ("train", "model", "metrics.jsonl")
"""What training writes into the run folder."""
MEASURED = ("result.json", "flips.parquet", "figures", "report.html", "tracking.json", "registered.json")
"""What is made of a trained model there, or belongs to that training only."""

ADDRESS = re.compile(r"[A-Za-z][\w+.-]+:/")
"""What begins like an address, also where `Path` has taken one of its two slashes away."""

_SHOWN_RUNS = 5
# what a run holds that failed before its first stage ended: nothing that a new start would lose
_PRELIMINARY = re.compile(
    r"^(config\.yaml|environment\.json|tracking\.json|study\.json|rejected\.jsonl|failure-[\d-]+\.txt|\..*)$"
)


def check_writable(folder: Path) -> None:
    """Create `folder` if needed and prove that files can be written there, by writing and deleting one.

    Raises:
        ConfigError: it cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try_writing(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"run.dir: cannot write to {folder} ({reason}); name a writable folder, e.g. run.dir=runs"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that a stage has written.

    Raises:
        DataError: it cannot be read or is no object.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no JSON object")
    return content


def _new_name() -> str:
    return f"cpl-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def runs_folder(config: Config) -> Path:
    """Return the absolute folder of all runs (`run.dir`).

    Raises:
        ConfigError: `run.dir` is an address such as `s3://bucket/runs`, which would become a folder of that name here.
    """
    if ADDRESS.match(config.run.dir):
        raise ConfigError(
            f"run.dir: {redact(config.run.dir)!r} is an address, not a path; give a folder's path, on several nodes "
            "one that every node shares (a mount), e.g. run.dir=/shared/runs"
        )
    return Path(config.run.dir).expanduser().absolute()


class RunDir:
    """Paths of one run; `root` is absolute, so that every process may use it whatever its working folder.

    Constructing it touches nothing on disk; `create`, `enter` and `open` do.
    """

    def __init__(self, config: Config) -> None:
        """Name the paths of the run that `config.run` names.

        Raises:
            ConfigError: `run.name` is null, so no folder is meant; `create` and `enter` choose a name.
        """
        if config.run.name is None:
            raise ConfigError("run.name is not set; name the run, e.g. run.name=my-run")
        self.name: str = config.run.name
        self.root = runs_folder(config) / self.name
        self.assessment = self.root / "assessment"
        self.train = self.root / "train"
        self.model = self.root / "model"
        self.figures = self.root / "figures"
        self.report = self.root / "report.html"
        self.result = self.root / "result.json"
        self.config = self.root / "config.yaml"
        self.manifest = self.root / "manifest.json"
        self.metrics = self.root / "metrics.jsonl"
        self.flips = self.root / "flips.parquet"
        self.tracking = self.root / "tracking.json"
        self.registered = self.root / "registered.json"
        self.environment = self.root / "environment.json"

    def named(self, config: Config) -> Config:
        """Return `config` with this run's name, also where the name was chosen here."""
        return config.model_copy(update={"run": config.run.model_copy(update={"name": self.name})})

    @classmethod
    def create(cls, config: Config) -> "RunDir":
        """Make the folder of a new run and save its resolved configuration, or enter it to resume.

        A null `run.name` becomes a new unique one. A folder in which no stage has come to anything yet counts as new.
        The folder is held for this process (see `lock.hold`). On resume the saved configuration is left as it is.

        Raises:
            ConfigError: the name is taken and neither `run.resume` nor `run.overwrite` is set, what should be
                overwritten is no run folder, `run.dir` is not writable, or another process uses the run.
            ResumeError: there is no such run to resume.
        """
        run = cls._ready(config)
        if config.run.resume:
            remove_leftovers(run.root)
            return run
        present = [path for path in run.root.iterdir() if path.name != LOCK_NAME]
        if any(not _PRELIMINARY.match(path.name) for path in present) and not config.run.overwrite:
            raise ConfigError(
                f"run.name: {run.name!r} exists already in {run.root.parent}; choose another name, "
                "run.resume=true to continue it, or run.overwrite=true to delete it first"
            )
        _delete(present)
        run._save(config)
        return run

    @classmethod
    def enter(cls, config: Config, writes: tuple[str, ...], outdates: tuple[str, ...] = ()) -> "RunDir":
        """Make or enter the folder for one stage, which may follow earlier stages of the same run.

        Args:
            config: the run; its name may be null as in `create`.
            writes: what the stage writes, as file or folder names inside the run folder, e.g. `("train", "model")`.
            outdates: what later stages made of it; deleted with it where it is overwritten.

        Raises:
            ConfigError: as `create`, but only what is named in `writes` counts as taken, and with `run.overwrite`
                only `writes` and `outdates` are deleted; earlier stages stay.
            ResumeError: there is no such run to resume.
        """
        run = cls._ready(config)
        if config.run.resume:
            remove_leftovers(run.root)
            return run
        present = [run.root / name for name in writes if (run.root / name).exists()]
        if present and not config.run.overwrite:
            raise ConfigError(
                f"run.name: {run.name!r} in {run.root.parent} has {', '.join(path.name for path in present)} already; "
                "choose another name, run.resume=true to continue, or run.overwrite=true to write again"
            )
        if present:
            _delete([*present, *(run.root / name for name in outdates)])
        run._save(config)
        return run

    @classmethod
    def open(cls, config: Config) -> "RunDir":
        """Enter an existing run, to evaluate, register or judge it.

        Raises:
            ConfigError: `run.name` is null, there is no such run (the message lists the newest), or another process
                uses it.
        """
        base = runs_folder(config)
        if config.run.name is None:
            raise ConfigError(f"run.name is not set; say which run is meant{_runs_in(base)}")
        run = cls(config)
        if not run.config.is_file():
            raise ConfigError(f"run.name: there is no run {run.name!r} in {base}{_runs_in(base)}")
        check_writable(run.root)
        hold(run.root)
        return run

    @classmethod
    def _ready(cls, config: Config) -> "RunDir":
        """Check and hold what `create` and `enter` share: name, resumable run, writable place."""
        if config.run.resume and config.run.overwrite:
            raise ConfigError("run.resume and run.overwrite are both true; a run is either continued or deleted")
        base = runs_folder(config)
        if config.run.resume:
            if config.run.name is None:
                raise ConfigError(f"run.resume=true needs run.name; say which run to continue{_runs_in(base)}")
            run = cls(config)
            if not run.config.is_file():
                raise ResumeError(f"run.resume: there is no run {run.name!r} in {base}{_runs_in(base)}")
        else:
            if config.run.name is None:
                config = config.model_copy(update={"run": config.run.model_copy(update={"name": _new_name()})})
            check_writable(base)
            run = cls(config)
            if run.root.exists() and not run.config.is_file() and not (run.root.is_dir() and _is_empty(run.root)):
                raise ConfigError(
                    f"run.name: {run.root} is not a run folder (it holds no config.yaml) and is left alone; "
                    "choose another run.name"
                )
        check_writable(run.root)
        hold(run.root)
        return run

    def _save(self, config: Config) -> None:
        """Save the resolved configuration under the final name, so that using it again neither resumes nor deletes."""
        named = self.named(config)
        run = named.run.model_copy(update={"resume": False, "overwrite": False})
        atomic_write_text(self.config, dump_config(named.model_copy(update={"run": run})))


def _is_empty(folder: Path) -> bool:
    return all(path.name == LOCK_NAME for path in folder.iterdir())


def _delete(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _runs_in(base: Path) -> str:
    """Describe the newest runs in `base`, for messages."""
    if not base.is_dir():
        return f"; {base} does not exist"
    runs = sorted(base.glob("*/config.yaml"), key=lambda path: path.stat().st_mtime, reverse=True)
    if not runs:
        return f"; {base} holds no runs"
    return "; newest runs there: " + ", ".join(path.parent.name for path in runs[:_SHOWN_RUNS])
