"""The cluster files fit their schemas, and the mistakes that a schema is there for are found."""

import copy
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
KUBERAY = ["raycluster.yaml", "rayjob.yaml", "storage.yaml"]
VMS = ["vm.yaml", "vm-gcp.yaml", "vm-onprem.yaml"]
SCRIPTS = ["submit.sh", "local_cluster.sh", "slurm.sh", "mlflow_server.sh"]


def load(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text())


def kuberay_schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((CLUSTER / "schema" / "kuberay.json").read_text())
    return schema


def launcher_schema() -> dict[str, Any]:
    import ray

    schema: dict[str, Any] = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    return schema


def cluster_spec(document: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = document["spec"]["rayClusterSpec"] if document["kind"] == "RayJob" else document["spec"]
    return spec


@pytest.mark.parametrize("name", KUBERAY)
def test_kubernetes_file_fits_the_schema(name: str) -> None:
    jsonschema.Draft7Validator.check_schema(kuberay_schema())
    jsonschema.validate(load(name), kuberay_schema())


@pytest.mark.parametrize("name", VMS)
def test_vm_file_fits_the_schema_of_ray(name: str) -> None:
    jsonschema.validate(load(name), launcher_schema())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "entrypont"), "python"),
        (("spec", "backoffLimit"), "0"),
        (("spec", "submissionMode"), "K8SJobMode"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "on"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers"), []),
        (("apiVersion",), "ray.io/v1alpha1"),
    ],
)
def test_schema_finds_mistakes(path: tuple[str, ...], value: Any) -> None:
    document = copy.deepcopy(load("rayjob.yaml"))
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, kuberay_schema())


def test_launcher_schema_finds_a_misspelt_key() -> None:
    with pytest.raises(jsonschema.ValidationError, match="maxworkers"):
        jsonschema.validate({**load("vm.yaml"), "maxworkers": 2}, launcher_schema())


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_every_container_has_storage_and_shared_memory(name: str) -> None:
    spec = cluster_spec(load(name))
    assert spec["authOptions"]["mode"] == "token"
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == load("storage.yaml")["metadata"]["name"]
        assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
        for container in pod["containers"]:
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            assert mounts == {"shared": "/shared", "shm": "/dev/shm"}
            assert container["resources"]["requests"] == container["resources"]["limits"]


def test_a_failed_job_is_not_submitted_again() -> None:
    spec = load("rayjob.yaml")["spec"]
    assert spec["backoffLimit"] == spec["submitterConfig"]["backoffLimit"] == 0
    variables = yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    assert variables == {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "30"}


def test_job_and_standing_cluster_have_the_same_nodes() -> None:
    assert cluster_spec(load("rayjob.yaml")) == cluster_spec(load("raycluster.yaml"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_is_executable_and_parses(name: str) -> None:
    assert os.access(CLUSTER / name, os.X_OK)
    subprocess.run(["bash", "-n", str(CLUSTER / name)], check=True)


@pytest.mark.parametrize(
    ("store", "destination", "said"),
    [
        ("", "s3://models/a", "MLFLOW_BACKEND_STORE_URI is not set"),
        ("sqlite:///a.db", "", "MLFLOW_ARTIFACTS_DESTINATION is not set"),
        ("mongodb://me:hush@host/a", "a", "begins with mongodb; valid are postgresql:// and sqlite:///"),
        ("postgresql+psycopg2://me:hush@host/a", "a", "needs the Python package psycopg2: pip install"),
    ],
)
def test_mlflow_server_says_what_is_missing(tmp_path: Path, store: str, destination: str, said: str) -> None:
    python = tmp_path / "python"  # one that lacks psycopg2
    python.write_text('#!/bin/sh\ncase "$2" in *psycopg2*) exit 1 ;; esac\n')
    python.chmod(0o755)
    own = {"MLFLOW_BACKEND_STORE_URI": store, "MLFLOW_ARTIFACTS_DESTINATION": destination, "PYTHON": str(python)}
    command = ["bash", str(CLUSTER / "mlflow_server.sh")]
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3
    assert said in done.stderr
    assert "hush" not in done.stderr


def fake_ray(folder: Path) -> dict[str, str]:
    """Make a `project` whose `ray` prints its arguments, and the environment to run its scripts in."""
    shutil.copytree(CLUSTER, folder / "project" / "cluster")
    binaries = folder / "bin"
    binaries.mkdir()
    (binaries / "ray").write_text('#!/bin/sh\nprintf "%s\\n" "mode=${RAY_AUTH_MODE:-unset}" "$@"\n')
    (binaries / "ray").chmod(0o755)
    home = folder / "home"
    home.mkdir()
    return {"PATH": f"{binaries}:{os.environ['PATH']}", "HOME": str(home)}


def submit(folder: Path, variables: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    script = folder / "project" / "cluster" / "submit.sh"
    return subprocess.run([str(script), *arguments], env=variables, capture_output=True, text=True, check=False)


def test_submit_hands_on_verb_stop_signal_and_tracking(tmp_path: Path) -> None:
    variables = fake_ray(tmp_path) | {"MLFLOW_TRACKING_URI": "http://tracking:5000", "HF_TOKEN": "secret"}
    done = submit(tmp_path, variables, "--id", "one", "run", "a.yaml", "run.dir=/shared/runs")
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[:3] == ["mode=unset", "job", "submit"]
    assert lines[lines.index("--") + 1 :] == ["python", "-m", "pipelines", "run", "a.yaml", "run.dir=/shared/runs"]
    assert lines[lines.index("--submission-id") + 1] == "one"
    environment = json.loads(lines[lines.index("--runtime-env-json") + 1])["env_vars"]
    assert environment == {
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


def slurm(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run slurm.sh as a job of two nodes; `srun` prints its arguments."""
    environment = fake_ray(folder)
    for name, text in {"srun": 'printf "%s\\n" "$@"', "scontrol": "printf 'n%s\\n' 07 08"}.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / "bin" / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "40017", "SLURM_JOB_NODELIST": "n[07-08]", "SLURM_JOB_NUM_NODES": "2"}
    environment |= job | {"SLURM_SUBMIT_DIR": str(folder / "project"), "SLURM_CPUS_ON_NODE": "16"} | variables
    script = folder / "project" / "cluster" / "slurm.sh"
    return subprocess.run([str(script), *arguments], env=environment, capture_output=True, text=True, check=False)


VERB = ("run", "a.yaml", "run.dir=/shared/runs", "run.name=a")


def test_slurm_starts_ray_on_all_nodes_and_the_verb_on_the_first(tmp_path: Path) -> None:
    done = slurm(tmp_path, *VERB)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[lines.index("--address") + 1] == "n07:20017"
    assert lines[lines.index("--min-nodes") + 1] == "2"
    assert lines[lines.index("--num-cpus") + 1] == "16"
    assert lines[lines.index("--") + 1 :] == ["python", "-m", "pipelines", *VERB]


def test_slurm_job_that_is_started_again_continues_the_run(tmp_path: Path) -> None:
    done = slurm(tmp_path, *VERB, SLURM_RESTART_COUNT="1")
    assert done.stdout.splitlines()[-1] == "run.resume=true"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "usage: "),
        (("run", "a.yaml", "run.name=a"), "run.dir must be an absolute path"),
        (("run", "a.yaml", "run.dir=runs", "run.name=a"), "run.dir must be an absolute path"),
        (("run", "a.yaml", "run.dir=/shared/runs"), "run.name is needed"),
    ],
)
def test_slurm_refuses_what_could_not_be_continued(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = slurm(tmp_path, *arguments)
    assert done.returncode == 3
    assert done.stderr.startswith("slurm.sh: ")
    assert said in done.stderr


@pytest.mark.parametrize(("word", "code"), [("status", 1), ("stop", 0), ("restart", 3)])
def test_local_cluster_without_a_head(tmp_path: Path, word: str, code: int) -> None:
    variables = {**os.environ, "CPL_CLUSTER_DIR": str(tmp_path / "head")}
    script = str(CLUSTER / "local_cluster.sh")
    done = subprocess.run([script, word], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == code


def test_a_port_in_use_is_named_and_nothing_is_started(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "CPL_CLUSTER_DIR": str(tmp_path / "c"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = ["bash", str(CLUSTER / "local_cluster.sh"), "start", "--port", str(port)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert f"port {port} is taken; name another, or leave --port out for a free one" in done.stderr
    assert not (tmp_path / "c").exists()
