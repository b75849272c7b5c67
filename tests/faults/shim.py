"""Storage that fails and a wall clock that jumps, by a small library loaded into every process of a command."""

import errno
import shutil
import subprocess
import sys
from pathlib import Path

COMPILER = shutil.which("cc") or shutil.which("gcc")
WHY_NOT = (
    "needs Linux and a C compiler (cc): faults of storage and clock are made by a library that is loaded before libc"
)
POSSIBLE = sys.platform.startswith("linux") and COMPILER is not None


def build(folder: Path) -> Path:
    """Compile the library into `folder` and return its path."""
    library = folder / "libcplfaults.so"
    source = Path(__file__).with_name("shim.c")
    assert COMPILER is not None, WHY_NOT
    command = [COMPILER, "-O1", "-Wall", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl", "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library


def failing_storage(
    library: Path, prefix: Path, *, every: int, code: int = errno.EIO, switch: Path | None = None
) -> dict[str, str]:
    """Return the variables under which every `every`-th writing call of a process below `prefix` fails with `code`.

    With `switch` only while that file exists.
    """
    named = {"CPL_FAULT_SWITCH": str(switch)} if switch else {}
    return {
        "LD_PRELOAD": str(library),
        "CPL_FAULT_PREFIX": str(prefix),
        "CPL_FAULT_EVERY": str(every),
        "CPL_FAULT_ERRNO": str(code),
        **named,
    }


def jumping_clock(library: Path, switch: Path) -> dict[str, str]:
    """Return the variables under which the wall clock jumps once `switch` exists, by the seconds written there."""
    return {"LD_PRELOAD": str(library), "CPL_CLOCK_SWITCH": str(switch)}
