"""A C++ source file compiled once per machine and loaded with ctypes: no build step at install, no framework.

The library lies in the user's cache folder under a digest of source, flags, compiler and processor features, so that
nodes of different kinds may share a home. It is renamed in whole; several processes may compile at once.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

# no contraction, so that a * b + c rounds where the source says; without errno and traps loops become vectors
FLAGS = ("-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-std=c++17", "-shared", "-fPIC")
NATIVE = ("-march=native", "-mcpu=native", "")  # x86, ARM, whatever else: the first that the compiler knows
TIMEOUT_S = 300  # a second of computing; minutes on a machine that starves


class CompilerError(Exception):
    """The source could not be compiled or loaded here; the message says why."""


def load(source: Path, flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    """Return the library of a source file, compiled now unless the cache has it.

    Args:
        source: C++ file.
        flags: for the compiler, instead of asking for all features of this processor.

    Raises:
        CompilerError: there is no compiler, it fails, or what it made cannot be loaded.
    """
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        raise CompilerError("there is no C++ compiler: CXX is not set, and c++, g++, clang++ are not found")
    try:
        version = _run([*compiler.split(), "--version"]).stdout
        parts = (source.read_text(encoding="utf-8"), compiler, version, *FLAGS, *flags, _processor())
        name = f"{source.stem}-{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:32]}.so"
        folder = _cache_folder()
        library = folder / name
        if not library.exists():
            _compile([*compiler.split(), *FLAGS], source, library, flags)
        return ctypes.CDLL(str(library))
    except (OSError, subprocess.SubprocessError) as error:
        raise CompilerError(f"{compiler}: {error}") from error


def _compile(command: list[str], source: Path, library: Path, flags: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder, library.name)
        said = ""
        for native in ("",) if flags else NATIVE:
            chosen = flags or ((native,) if native else ())
            result = _run([*command, *chosen, str(source), "-o", str(made)], check=False)
            if result.returncode == 0:
                made.replace(library)
                return
            said = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[0]
    raise CompilerError(f"{command[0]} fails: {said}")


def _run(command: list[str], check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=check, capture_output=True, text=True, timeout=TIMEOUT_S)


def _cache_folder() -> Path:
    """Return a folder of the user's own; where none can be written, a new one that only this process uses."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(home, "cpl_ray")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="cpl_ray_"))
    own = os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid()  # code of others is not loaded
    return folder if own else Path(tempfile.mkdtemp(prefix="cpl_ray_"))


def _processor() -> str:
    """Return what tells processors apart whose code differs."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.exists() else []
    features = [line for line in lines if line.lower().startswith(("flags", "features"))]
    return f"{platform.machine()} {platform.processor()} {features[0] if features else ''}"
