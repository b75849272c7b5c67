"""cluster/submit.sh: what it hands to `ray job submit`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.stand_ins import ROOT, fake_ray, run_script


def submit(folder: Path, variables: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_script(folder, "submit.sh", variables, *arguments)


def test_submit_hands_on_verb_stop_signal_and_tracking(tmp_path: Path) -> None:
    variables = fake_ray(tmp_path) | {"MLFLOW_TRACKING_URI": "http://tracking:5000", "HF_TOKEN": "secret"}
    done = submit(tmp_path, variables, "--id", "one", "run", "a.yaml", "run.dir=/shared/runs")
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[:3] == ["mode=unset", "job", "submit"]
    assert lines[lines.index("--") + 1 :] == ["python", "-m", "pipelines", "run", "a.yaml", "run.dir=/shared/runs"]
    assert lines[lines.index("--submission-id") + 1] == "one"
    runtime_env = json.loads(lines[lines.index("--runtime-env-json") + 1])
    assert set(runtime_env) == {"env_vars"}
    assert runtime_env["env_vars"] == {
        "RAY_JOB_STOP_SIGNAL": "SIGINT",
        "RAY_JOB_STOP_WAIT_TIME_S": "30",
        "MLFLOW_TRACKING_URI": "http://tracking:5000",
    }


def test_submit_uses_a_token_where_there_is_one(tmp_path: Path) -> None:
    variables = fake_ray(tmp_path)
    assert "mode=token" in submit(tmp_path, variables | {"RAY_AUTH_TOKEN": "t"}, "run", "a.yaml").stdout
    (tmp_path / "home" / ".ray").mkdir()
    (tmp_path / "home" / ".ray" / "auth_token").write_text("t")
    assert "mode=token" in submit(tmp_path, variables, "run", "a.yaml").stdout
    assert "mode=disabled" in submit(tmp_path, variables | {"RAY_AUTH_MODE": "disabled"}, "run", "a.yaml").stdout


def test_submit_keeps_the_run_folder_from_being_lost(tmp_path: Path) -> None:
    variables = fake_ray(tmp_path)
    local = submit(tmp_path, variables, "run", "a.yaml")
    assert local.stdout.splitlines()[-1] == f"run.dir={tmp_path / 'project' / 'runs'}"
    remote = submit(tmp_path, variables | {"RAY_ADDRESS": "http://head:8265"}, "run", "a.yaml")
    assert "run.dir" not in remote.stdout
    assert "run.dir" in remote.stderr


@pytest.mark.parametrize("arguments", [(), ("run",), ("--what", "run", "a.yaml")])
def test_submit_refuses_wrong_usage(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = submit(tmp_path, fake_ray(tmp_path), *arguments)
    assert done.returncode == 3
    assert done.stderr.startswith("submit.sh: ")


def sent(folder: Path, variables: dict[str, str]) -> dict[str, Any]:
    """Return the runtime environment that `submit.sh --pip` sends, as Ray takes it."""
    from ray.runtime_env import RuntimeEnv

    done = submit(folder, variables, "--pip", "run", "a.yaml", "run.dir=/shared/runs")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    return dict(RuntimeEnv(**json.loads(lines[lines.index("--runtime-env-json") + 1])))


def test_submit_with_pip_asks_for_the_tested_set(tmp_path: Path) -> None:
    """The lines that are sent are a requirements file, by which the tested set itself lacks nothing."""
    from ray._private.runtime_env.dependency_utils import gen_requirements_txt

    wanted = sent(tmp_path, fake_ray(tmp_path))
    assert wanted["config"]["setup_timeout_seconds"] > 600
    packages = wanted["pip"]["packages"]
    assert any(line.startswith("torch") for line in packages)
    gen_requirements_txt(str(tmp_path / "requirements.txt"), packages)
    environment = {**os.environ, "RAY_RUNTIME_ENV_CREATE_WORKING_DIR": str(ROOT), "PIP_CONFIG_FILE": os.devnull}
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "-r", "requirements.txt"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Would install" not in done.stdout


def test_submit_with_pip_installs_again_when_versions_change(tmp_path: Path) -> None:
    from ray._private.runtime_env.pip import get_uri

    variables = fake_ray(tmp_path)
    first = get_uri(sent(tmp_path, variables))
    assert get_uri(sent(tmp_path, variables)) == first
    with open(tmp_path / "project" / "constraints.txt", "a") as stream:
        stream.write("tomli==2.0.0\n")
    assert get_uri(sent(tmp_path, variables)) != first


def test_submit_with_pip_names_the_index_of_torch(tmp_path: Path) -> None:
    packages = sent(tmp_path, fake_ray(tmp_path) | {"TORCH_INDEX": "https://torch.example/cpu"})["pip"]["packages"]
    assert "--extra-index-url https://torch.example/cpu" in packages
