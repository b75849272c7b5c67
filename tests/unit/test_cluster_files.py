"""The cluster files fit their schemas, and the mistakes that a schema is there for are found."""

import copy
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
KUBERAY = ["raycluster.yaml", "raycluster-elastic.yaml", "rayjob.yaml", "storage.yaml"]
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
    refused_with("rayjob.yaml", path, value)


SPOT_POD = ("spec", "workerGroupSpecs", 1, "template", "spec")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "autoscalerOptions", "version"), 2),
        (("spec", "autoscalerOptions", "upscalingMode"), "default"),
        (("spec", "autoscalerOptions", "idleTimeoutSeconds"), "300"),
        (("spec", "autoscalerOptions", "idleTimeoutMinutes"), 5),
        ((*SPOT_POD, "terminationGracePeriodSeconds"), "15"),
        ((*SPOT_POD, "nodeSelector", "spot"), True),
        ((*SPOT_POD, "tolerations", 0, "effect"), "NoRun"),
        ((*SPOT_POD, "tolerations", 0, "operator"), "Exists"),  # and a value
    ],
)
def test_schema_finds_mistakes_of_scaling(path: tuple[str | int, ...], value: Any) -> None:
    refused_with("raycluster-elastic.yaml", path, value)


def refused_with(name: str, path: tuple[str | int, ...], value: Any) -> None:
    document = copy.deepcopy(load(name))
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, kuberay_schema())


def test_launcher_schema_finds_a_misspelt_key() -> None:
    with pytest.raises(jsonschema.ValidationError, match="maxworkers"):
        jsonschema.validate({**load("vm.yaml"), "maxworkers": 2}, launcher_schema())


@pytest.mark.parametrize("name", ["raycluster.yaml", "raycluster-elastic.yaml", "rayjob.yaml"])
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


def test_elastic_cluster_has_the_fixed_workers_and_groups_that_grow_on_spot_nodes() -> None:
    elastic, fixed = (cluster_spec(load(name)) for name in ("raycluster-elastic.yaml", "raycluster.yaml"))
    assert elastic["enableInTreeAutoscaling"] is True
    assert elastic["headGroupSpec"] == fixed["headGroupSpec"]
    same, *spot = elastic["workerGroupSpecs"]
    assert [same] == fixed["workerGroupSpecs"]
    assert same["minReplicas"] == same["replicas"] == same["maxReplicas"]
    assert [group["groupName"] for group in spot] == ["spot-cpu", "spot-gpu"]
    for group in spot:
        assert (group["minReplicas"], group["replicas"]) == (0, 0)
        assert group["maxReplicas"] > 0
        pod = group["template"]["spec"]
        ((key, value),) = pod["nodeSelector"].items()
        assert {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"} in pod["tolerations"]
        assert pod["terminationGracePeriodSeconds"] <= 30
    assert "nvidia.com/gpu" in spot[1]["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_machines_of_aws_name_an_image_and_have_room_for_it() -> None:
    types = load("vm.yaml")["available_node_types"]
    for node in (node["node_config"] for node in types.values()):
        assert node["ImageId"].startswith("ami-")  # else Ray takes one with Ubuntu 18.04
        assert node["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] >= 200
    assert "ssm get-parameter" in (CLUSTER / "vm.yaml").read_text()


def test_training_machines_of_aws_stay_and_spot_machines_come_and_go() -> None:
    document = load("vm.yaml")
    types = document["available_node_types"]
    training, spot = types["gpu_worker"], types["gpu_spot"]
    assert training["min_workers"] == training["max_workers"]
    assert spot["min_workers"] < spot["max_workers"]
    assert spot["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert document["max_workers"] == training["max_workers"] + spot["max_workers"]


@pytest.mark.parametrize("name", ["vm.yaml", "vm-gcp.yaml"])
def test_nothing_is_installed_into_the_image(name: str) -> None:
    from ray.autoscaler._private.util import fillout_defaults

    filled = fillout_defaults(load(name))
    assert filled["setup_commands"] == filled["head_setup_commands"] == filled["worker_setup_commands"] == []


@pytest.mark.parametrize("name", VMS)
def test_head_of_machines_works_for_nobody(name: str) -> None:
    document = load(name)
    if document["provider"]["type"] == "local":  # Ray's launcher sets no resources of such machines
        assert "--num-cpus=0 --num-gpus=0" in document["head_start_ray_commands"][-1]
    else:
        assert document["available_node_types"]["head"]["resources"] == {"CPU": 0}


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
    done = mlflow_server(tmp_path, BACKEND_STORE_URI=store, ARTIFACTS_DESTINATION=destination)
    assert done.returncode == 3
    assert said in done.stderr
    assert "hush" not in done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "mlflow.example"])
def test_mlflow_server_for_others_wants_to_know_its_names(tmp_path: Path, host: str) -> None:
    own = {"BACKEND_STORE_URI": "sqlite:///a.db", "ARTIFACTS_DESTINATION": "a", "HOST": host, "PORT": "5001"}
    refused = mlflow_server(tmp_path, **own)
    assert refused.returncode == 3
    assert f"MLFLOW_HOST is {host}, but MLFLOW_SERVER_ALLOWED_HOSTS is not set" in refused.stderr
    assert "MLFLOW_SERVER_ALLOWED_HOSTS=mlflow.example:5001" in refused.stderr
    started = mlflow_server(tmp_path, **own, SERVER_ALLOWED_HOSTS="mlflow.example:5001")
    assert started.returncode == 0
    assert f"whoever reaches {host}:5001 can change runs" in started.stderr


def mlflow_server(folder: Path, **own: str) -> subprocess.CompletedProcess[str]:
    """Run the script with a `python` that lacks psycopg2 and starts nothing, and with variables MLFLOW_*."""
    python = folder / "python"
    python.write_text('#!/bin/sh\ncase "$2" in *psycopg2*) exit 1 ;; esac\n')
    python.chmod(0o755)
    others = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return subprocess.run(
        ["bash", str(CLUSTER / "mlflow_server.sh")],
        env=others | {f"MLFLOW_{name}": value for name, value in own.items()} | {"PYTHON": str(python)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


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
