"""cluster/Dockerfile: its CUDA fits the pinned torch, and its own commands install the project whole."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.stand_ins import ROOT, stand_in

DOCKERFILE = ROOT / "cluster" / "Dockerfile"
BUILDS = {"2.13.0": {"cu126": 560, "cu130": 580}}
"""Per version of torch its CUDA builds, and the NVIDIA driver on Linux that each needs. Another torch: look them up at
https://download.pytorch.org/whl/torch/ and in the release notes of that CUDA."""


def build_arguments() -> dict[str, str]:
    """Return the build arguments of the documented CUDA image."""
    return dict(re.findall(r"--build-arg (BASE_IMAGE|TORCH_INDEX)=(\S+)", DOCKERFILE.read_text()))


def cuda_build() -> str:
    return build_arguments()["TORCH_INDEX"].rpartition("/")[2]


def drivers_needed() -> dict[str, int]:
    pinned = re.findall(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    return BUILDS[pinned[0]]


def test_the_pinned_torch_is_built_for_the_documented_cuda() -> None:
    assert cuda_build() in drivers_needed()


def test_base_image_has_the_cuda_of_torch() -> None:
    found = re.fullmatch(r"nvidia/cuda:(\d+)\.(\d+)\.\d+-devel-ubuntu24\.04", build_arguments()["BASE_IMAGE"])
    assert found is not None
    assert cuda_build() == f"cu{found[1]}{found[2]}"


def test_driver_of_the_machines_is_new_enough() -> None:
    drivers = re.findall(r"-nvidia-(\d+)$", (ROOT / "cluster" / "vm-gcp.yaml").read_text(), re.MULTILINE)
    assert drivers
    assert all(int(driver) >= drivers_needed()[cuda_build()] for driver in drivers)


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile, each on one line, without comments."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in whole.splitlines() if line.strip()]


@pytest.mark.timeout(300)
def test_what_the_dockerfile_installs_is_the_project(tmp_path: Path) -> None:
    """All after WORKDIR is done in a folder, up to the last `pip`; files are as old as COPY leaves them.

    The stand-in of `pip` installs the project only, into a folder and offline, and notes what else is asked of it.
    """
    app, target, asked = tmp_path / "app", tmp_path / "target", tmp_path / "asked"
    app.mkdir()
    real = f"{sys.executable} -m pip --quiet"
    stand_in(
        tmp_path,
        "pip",
        f"""for last; do :; done
if [ "$last" = . ]; then exec {real} "$@" --no-deps --no-index --no-build-isolation --upgrade --target {target}; fi
echo "$@" >> {asked}""",
    )
    stand_in(tmp_path, "python3", f'exec {sys.executable} "$@"')
    variables = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "TORCH_INDEX": "https://torch.example",
    }
    variables |= {"CLOUD": "boto3", "PYTHONPATH": ""}
    after = instructions()
    for kind, text in after[after.index(("WORKDIR", "/app")) + 1 :]:
        if kind == "COPY":
            copy(text.split(), app)
        elif kind == "RUN" and "pip install" in text:
            subprocess.run(["sh", "-c", text], cwd=app, env=variables, check=True)
    command = "import cpl_ray, pipelines; print(cpl_ray.__version__, pipelines.STARTED, cpl_ray.__file__)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(str(target / "cpl_ray" / "__init__.py"))
    assert same_sources(app, target)
    torch, *others = asked.read_text().splitlines()
    assert "--index-url https://torch.example" in torch
    assert "--no-deps" in torch
    assert [line for line in others if "-r requirements.txt" in line and "-c constraints.txt" in line]
    assert "torch>=" in (app / "requirements.txt").read_text()


def copy(words: list[str], app: Path) -> None:
    """Do a COPY instruction, with times from long before the build."""
    *sources, destination = words
    for source in sources:
        there = app / destination / source if len(sources) > 1 else app / destination
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, there, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            shutil.copy(ROOT / source, there)
    for path in app.rglob("*"):
        if path.suffix in (".py", ".cpp", ".toml"):
            os.utime(path, (1e9, 1e9))


def same_sources(app: Path, target: Path) -> bool:
    """Tell whether every module and template of `app` is in `target` as it is there."""
    wanted = [
        path
        for package in ("cpl_ray", "pipelines")
        for path in (app / package).rglob("*")
        if path.suffix in (".py", ".cpp") or (path.parent.name == "templates" and path.is_file())
    ]
    return bool(wanted) and all((target / path.relative_to(app)).read_bytes() == path.read_bytes() for path in wanted)
