"""The environment snapshot: serialisable, complete enough for a report, and without secrets or heavy imports."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cpl_ray import environment
from cpl_ray.environment import PACKAGES, snapshot


def test_snapshot_is_json_with_versions_and_machine() -> None:
    found = json.loads(json.dumps(snapshot()))
    assert set(found["versions"]) == set(PACKAGES)
    assert all(found["versions"][name] for name in ("ray", "torch", "deepspeed", "transformers", "mlflow"))
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["num_cpus"] >= 1
    assert found["memory_bytes"] is None or found["memory_bytes"] > 2**20


def test_git_state_of_the_folder(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    assert snapshot(tmp_path)["project_git"] is None
    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    clean = snapshot(tmp_path)["project_git"]
    assert len(clean["commit"]) >= 40
    assert clean["dirty"] is False
    (tmp_path / "file").write_text("2")
    assert snapshot(tmp_path)["project_git"] == {"commit": clean["commit"], "dirty": True}
    assert snapshot(tmp_path)["git"] == snapshot()["git"], "of cpl-ray's own source, wherever one works"


def test_the_commit_is_that_of_the_source_and_not_of_a_repository_around_it(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    package = tmp_path / ".venv" / "cpl_ray"
    package.mkdir(parents=True)
    module = package / "environment.py"
    module.write_bytes(Path(environment.__file__).read_bytes())
    git("init")
    (tmp_path / "theirs").write_text("1")
    git("add", "theirs")
    git("commit", "-m", "theirs")
    assert environment._git(package) is not None, "the folder is inside a repository"
    assert environment._own_git(module) is None, "which does not keep the file"
    git("add", "-f", str(module))
    git("commit", "-m", "ours")
    assert environment._own_git(module) == environment._git(tmp_path)


def test_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "hunter2")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = snapshot()
    assert "hunter2" not in json.dumps(found)
    assert found["variables"]["OMP_NUM_THREADS"] == "3"


def test_snapshot_works_without_git_and_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from cpl_ray.environment import snapshot; found = snapshot()\n"
        "assert found['git'] is None and found['project_git'] is None and found['gpus'] == [], found\n"
        "assert not {'torch', 'ray', 'mlflow', 'transformers'} & set(sys.modules)"
    )
    environment = {**os.environ, "PATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
