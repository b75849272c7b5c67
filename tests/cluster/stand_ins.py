"""A copy of the project's cluster files beside commands that stand in for `ray` and Slurm."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def stand_in(folder: Path, name: str, text: str) -> None:
    """Put a shell script named `name` where the PATH of `fake_ray` finds it first."""
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def fake_ray(folder: Path) -> dict[str, str]:
    """Make a `project` whose `ray` prints its arguments, and the environment to run its scripts in."""
    shutil.copytree(ROOT / "cluster", folder / "project" / "cluster")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder / "project")
    stand_in(folder, "ray", 'printf "%s\\n" "mode=${RAY_AUTH_MODE:-unset}" "$@"')
    stand_in(folder, "python", f'exec "{sys.executable}" "$@"')  # the system may have a python3 only
    home = folder / "home"
    home.mkdir()
    return {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "HOME": str(home)}


def run_script(folder: Path, name: str, variables: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script of the copied cluster files to its end."""
    script = folder / "project" / "cluster" / name
    return subprocess.run(
        [str(script), *arguments], env=variables, capture_output=True, text=True, check=False, timeout=120
    )
