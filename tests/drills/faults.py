"""Faults of storage and clock that a run is given, and how each is mended before it is continued."""

import errno
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.drills.jobs import RUN_JOB, Job
from tests.faults import mounts, shim
from tests.faults.tearing import cut, flip
from tests.processes import kill
from tests.ray.conftest import marked

LARGE = 1 << 29
SPARE = 1 << 16
DAY_S = 86_400
EVERY = 67
"""A checkpoint of the drill's run is some 40 writing calls of a worker."""


@dataclass
class Fault:
    """Nothing happens to the run; the others override what they do.

    `said` is what the command has to print (a regular expression) when it ends because of the fault, `mended` the same
    for a continuation that finds what the fault has left.
    """

    place: Path
    """A folder of its own; runs go to `runs` in it."""
    update: int
    """Strikes after this update."""
    job: Job = RUN_JOB
    stage: str = ""
    """The stage in which it is to strike."""
    delay_s: float = 0.0
    """Seconds into that stage, where it strikes by time."""
    ends: tuple[int, ...] = (1, 3)
    """Exit codes of a command that the fault has ended: failed while running, or refused."""
    must_end: bool = False
    """Whether the command may not go on as if nothing had happened."""
    kills: bool = False
    """Whether a process is killed, after which nobody can clean up its temporary files."""
    said: str = "this fault lets no command fail"
    mended: str = "this fault lets no continuation fail"
    not_possible: str = ""
    """Why it cannot be had on this machine."""
    variables: dict[str, str] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)
    since: float | None = None
    """When the stage was first seen, on the monotonic clock."""
    missed: bool = False
    """Whether what it was about to strike had just gone."""

    @property
    def runs(self) -> Path:
        return self.place / "runs"

    def begin(self) -> None:
        self.runs.mkdir(parents=True)

    def due(self, folder: Path, process: Any) -> bool:
        return self.job.updates(folder) >= self.update

    def arrived(self, folder: Path) -> bool:
        """Tell whether its stage has come and `delay_s` of it have passed, or it was over sooner."""
        if self.job.stage(folder) != self.stage:
            return self.since is not None
        self.since = self.since or time.monotonic()
        return time.monotonic() - self.since >= self.delay_s

    def strike(self, folder: Path, process: Any) -> None:
        """Do it, once it is due."""

    def watch(self, folder: Path) -> None:
        """Do what comes later; called again and again while the command still runs."""

    def heal(self, folder: Path) -> None:
        """Mend it, after the command has ended."""

    def clear(self, folder: Path) -> None:
        """Do what a continuation has asked for that refused to go on."""

    def end(self) -> None:
        """Free what is held."""


def _either(place: Path, reason: str) -> str:
    """Return what matches a line with both the place and the reason."""
    return f"{re.escape(str(place))}.*({reason})|({reason}).*{re.escape(str(place))}"


class FullDisk(Fault):
    """Others fill the disk."""

    def begin(self) -> None:
        self.said = _either(self.runs, "No space left on device|disk is full")
        self.not_possible = "" if mounts.possible() else mounts.WHY_NOT
        if not self.not_possible:
            mounts.Tmpfs(self.runs).mount(LARGE)

    def strike(self, folder: Path, process: Any) -> None:
        mounts.Tmpfs(self.runs).fill(SPARE)

    def heal(self, folder: Path) -> None:
        mounts.Tmpfs(self.runs).resize(LARGE)

    def end(self) -> None:
        if not self.not_possible:
            mounts.forget(self.runs)


class FullDiskLate(FullDisk):
    """The same, when the trained model is being asked."""

    def due(self, folder: Path, process: Any) -> bool:
        return (folder / "model").exists()


class ReadOnly(Fault):
    """The disk fails and the kernel makes the file system read-only; what was not on disk is lost."""

    def begin(self) -> None:
        self.said = _either(self.runs, "Read-only file system|Input/output error")
        self.not_possible = "" if mounts.possible() and mounts.Disk.possible() else mounts.WHY_NOT
        self.disk = mounts.Disk(self.runs, self.place.with_suffix(".img"))
        if not self.not_possible:
            self.disk.make(LARGE)

    def strike(self, folder: Path, process: Any) -> None:
        self.disk.lose()

    def heal(self, folder: Path) -> None:
        self.disk.unmount()
        self.disk.mount()

    def end(self) -> None:
        if not self.not_possible:
            mounts.forget(self.runs)
            self.disk.image.unlink()


class FailingWrites(Fault):
    """Every so many-th writing call of each process below the folder of runs fails."""

    def begin(self) -> None:
        super().begin()
        self.said = re.escape(str(self.runs))
        self.not_possible = "" if shim.POSSIBLE else shim.WHY_NOT
        self.switch = self.place / "switch"
        if not self.not_possible:
            library = shim.build(self.place)
            self.variables = shim.failing_storage(library, self.runs, every=EVERY, code=errno.EIO, switch=self.switch)

    def due(self, folder: Path, process: Any) -> bool:
        return (folder / "assessment").exists()

    def strike(self, folder: Path, process: Any) -> None:
        self.switch.write_text("")

    def heal(self, folder: Path) -> None:
        self.switch.unlink(missing_ok=True)


class ClockJump(Fault):
    """The wall clock of all processes jumps; nothing may fail."""

    seconds = DAY_S

    def begin(self) -> None:
        super().begin()
        self.not_possible = "" if shim.POSSIBLE else shim.WHY_NOT
        self.switch = self.place / "switch"
        if not self.not_possible:
            self.variables = shim.jumping_clock(shim.build(self.place), self.switch)

    def strike(self, folder: Path, process: Any) -> None:
        whole = self.switch.with_suffix(".new")
        whole.write_text(str(self.seconds))
        whole.rename(self.switch)


class ClockBack(ClockJump):
    """Backwards."""

    seconds = -DAY_S


class TornCheckpoint(Fault):
    """The driver is killed and the newest checkpoint is not what was written."""

    tear: Callable[[Path], None] = staticmethod(lambda checkpoint: cut(checkpoint, "*optim_states.pt"))

    def begin(self) -> None:
        super().begin()
        self.kills = True
        self.mended = "checkpoint file .* is missing or damaged; delete the folder step_"

    def due(self, folder: Path, process: Any) -> bool:
        return super().due(folder, process) and len(self._checkpoints(folder)) > 1

    def strike(self, folder: Path, process: Any) -> None:
        process.send_signal(signal.SIGKILL)

    def heal(self, folder: Path) -> None:
        self.tear(self._checkpoints(folder)[-1])

    def clear(self, folder: Path) -> None:
        shutil.rmtree(self._checkpoints(folder)[-1])

    def _checkpoints(self, folder: Path) -> list[Path]:
        return [path.parent for path in sorted((folder / "train" / "checkpoints").glob("step_*/manifest.json"))]


class HalfCheckpoint(TornCheckpoint):
    """All processes are killed at once and the newest checkpoint is half written, still under its hidden name."""

    def strike(self, folder: Path, process: Any) -> None:
        kill(psutil.Process(process.pid), *marked(process))  # workers that live on would finish the training

    tear = staticmethod(lambda checkpoint: _hide(checkpoint))


def _hide(checkpoint: Path) -> None:
    hidden = checkpoint.rename(checkpoint.with_name(f".{checkpoint.name}.part"))
    (hidden / "manifest.json").unlink()
    cut(hidden, "*optim_states.pt")


class CorruptShard(Fault):
    """The driver is killed and a bit of the assessment is another."""

    def begin(self) -> None:
        super().begin()
        self.kills = True
        self.mended = "mastered_train.parquet is not what its manifest says"

    def strike(self, folder: Path, process: Any) -> None:
        process.send_signal(signal.SIGKILL)

    def heal(self, folder: Path) -> None:
        flip(folder / "assessment", "mastered_train.parquet")

    def clear(self, folder: Path) -> None:
        shutil.rmtree(folder / "assessment")  # "run `cpl assess` again": the whole job does
