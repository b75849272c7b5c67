"""File systems of limited size, and ones that become read-only, in a mount namespace that nobody else sees."""

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

WHY_NOT = "needs the right to make mount namespaces and to mount there (root on Linux)"
PRIVATE = ("unshare", "--mount", "--propagation", "private")
"""Start a command in a mount namespace of its own."""


def _did(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=120, check=False).returncode == 0
    except OSError:
        return False


def possible() -> bool:
    """Tell whether a file system can be mounted in a namespace of one's own."""
    return _did(*PRIVATE, "mount", "-t", "tmpfs", "none", "/mnt")


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def forget(folder: Path) -> None:
    """Unmount what is mounted there, at the latest when nobody uses it any more."""
    _did("umount", "--lazy", str(folder))


@dataclass(frozen=True)
class Tmpfs:
    """A file system in memory; only for processes in a namespace of their own."""

    folder: Path

    def mount(self, num_bytes: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        _mount("-t", "tmpfs", "-o", f"size={num_bytes}", "none", str(self.folder))

    def resize(self, num_bytes: int) -> None:
        _mount("-o", f"remount,size={num_bytes}", str(self.folder))

    def fill(self, spare: int) -> None:
        """Leave `spare` bytes of room, as if others had taken the rest. Others may be writing just now."""
        deadline = time.monotonic() + 10
        while True:
            usage = shutil.disk_usage(self.folder)
            if _did("mount", "-o", f"remount,size={usage.used + spare}", str(self.folder)):
                return
            assert time.monotonic() < deadline, f"{self.folder} could not be filled, {usage.used} bytes are used"

    def writable(self, wanted: bool) -> None:
        """Refused by the system while a file there is open for writing."""
        _mount("-o", f"remount,{'rw' if wanted else 'ro'}", str(self.folder))


@dataclass(frozen=True)
class Disk:
    """An ext4 file system in a file, which can lose its disk: read-only at once, what was not on disk yet is lost."""

    folder: Path
    image: Path

    @staticmethod
    def possible() -> bool:
        return os.path.exists("/dev/loop-control") and _did("mkfs.ext4", "-V")

    def make(self, num_bytes: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.image, "wb") as stream:
            stream.truncate(num_bytes)
        subprocess.run(["mkfs.ext4", "-q", str(self.image)], check=True)
        self.mount()

    def mount(self) -> None:
        _mount("-o", "loop", str(self.image), str(self.folder))

    def lose(self) -> None:
        """Make the kernel treat it as after an error of the disk, also for files that are open."""
        _mount("-o", "remount,abort", str(self.folder))

    def unmount(self) -> None:
        """Unmount it; waits until nobody uses it."""
        deadline = time.monotonic() + 20
        while not _did("umount", str(self.folder)):
            assert time.monotonic() < deadline, f"{self.folder} is still in use"
            time.sleep(0.2)
