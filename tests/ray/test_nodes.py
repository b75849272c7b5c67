"""Several Ray nodes on this machine: storage that is not shared, a node lost and replaced.

Each node has a raylet of its own and one CPU slot, so that the two workers of a run lie on two nodes.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from tests.faults import mounts
from tests.processes import command_line
from tests.ray.conftest import NUM_UPDATES, START_S, World, commands, steps, until, until_trained, weights
from tests.ray.nodes import Nodes, address, cluster

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]  # two nodes, world size 2
# in a mount namespace of its own, the folder named first is another one, or cannot be written to
PRIVATE = 'mount -t tmpfs none "$0" && exec "$@"'
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'


CHECK = """\
import json, sys, ray
from pathlib import Path
from cpl_ray.shared_storage import check_shared
ray.init(log_to_driver=False)
print(json.dumps(check_shared(Path(sys.argv[1]))))
"""

MARKED = """\
import json, sys, ray
from pathlib import Path
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
from cpl_ray.shared_storage import Mark, marked, problem_here
ray.init(log_to_driver=False)
ask = ray.remote(problem_here)
mark = Mark.of(Path(sys.argv[1]))
with marked(mark):
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    asked = [ask.options(num_cpus=0, scheduling_strategy=On(node, soft=False)).remote(mark) for node in nodes]
    print(json.dumps(sorted(found for found in ray.get(asked) if found)))
"""


def check_shared(nodes: Nodes, folder: Path) -> list[str]:
    problems: list[str] = json.loads(nodes.ask(CHECK, str(folder)))
    return problems


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    folder = Path(tempfile.mkdtemp(prefix="cpl-", dir="/tmp"))
    try:
        with cluster(folder / "ray") as found:
            yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_shared_folder_passes_and_nothing_is_left_in_it(nodes: Nodes, tmp_path: Path) -> None:
    assert check_shared(nodes, tmp_path / "runs") == []
    assert list((tmp_path / "runs").iterdir()) == []


def test_folder_below_a_file_is_the_drivers_own_problem(nodes: Nodes, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (problem,) = check_shared(nodes, tmp_path / "file" / "runs")
    assert problem == f"this machine cannot write to {tmp_path / 'file' / 'runs'}: Not a directory"


@pytest.mark.skipif(not mounts.possible(), reason=mounts.WHY_NOT)
@pytest.mark.parametrize(
    ("inside", "said"),
    [
        (PRIVATE, "what this machine wrote to {folder} is not to be seen there"),
        (READ_ONLY, "cannot write to {folder}: Read-only file system"),
    ],
)
def test_folder_that_one_node_does_not_share(
    nodes: Nodes, world: World, tmp_path: Path, inside: str, said: str, trained: Path
) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    third = nodes.add("unshare", "-m", "sh", "-c", inside, str(folder))
    try:
        assert check_shared(nodes, folder) == [f"node {address()}: {said.format(folder=folder)}"]
        told = f"run.dir is not on storage that every node shares: node {address()}: {said.format(folder=folder)}"
        assert json.loads(nodes.ask(MARKED, str(folder))) == [told]
        if inside == PRIVATE:
            arguments = ("train", "train.yaml", f"run.dir={folder}", "run.name=torn")
            _, error = world.cpl(*arguments, exit_code=3, **nodes.environment)
            assert f"run.dir is not on storage that every node shares: node {address()}: " in error
            assert said.format(folder=folder) in error
            assert not (folder / "torn" / "train").exists()
    finally:
        nodes.lose(third)
        nodes.wait()
    assert list(folder.glob(".cpl-storage*")) == []


@pytest.mark.skipif(not mounts.possible(), reason=mounts.WHY_NOT)
def test_node_that_joins_later_is_tried_by_the_worker_that_it_gets(world: World, tmp_path: Path, trained: Path) -> None:
    runs, place = tmp_path / "runs", Path(tempfile.mkdtemp(prefix="cpl-", dir="/tmp"))
    runs.mkdir()
    try:
        with cluster(place / "ray", count=1) as one:
            arguments = ("train", "train.yaml", f"run.dir={runs}", "run.name=late")
            process = world.start(*arguments, stderr=subprocess.PIPE, **one.environment)
            # it waits for room for two workers
            until(lambda: [*runs.glob("late/train/.cpl-storage-*")] or process.poll() is not None, START_S)
            one.add("unshare", "-m", "sh", "-c", PRIVATE, str(runs))
            _, said = process.communicate(timeout=START_S)
        assert process.returncode == 3, said
        assert (
            f"run.dir is not on storage that every node shares: node {address()}: what this machine wrote to " in said
        )
        # Ray's own processes may print one here: they take the other clusters of this machine for theirs
        assert "Traceback" not in "".join(line for line in said.splitlines() if " pid=" not in line)
        assert list(runs.glob("late/train/.cpl-storage-*")) == []
        assert not (runs / "late" / "train" / "checkpoints").exists()
    finally:
        shutil.rmtree(place, ignore_errors=True)


def test_lost_node_is_replaced_and_changes_nothing(nodes: Nodes, world: World, trained: Path) -> None:
    folder = world.runs / "nodes"
    process = world.start("train", "train.yaml", "run.name=nodes", stderr=subprocess.PIPE, **nodes.environment)
    until_trained(process, folder)
    second = nodes.started[-1]
    children = psutil.Process(second.pid).children(recursive=True)
    assert sum("RayTrainWorker" in command_line(one) for one in children) == 1
    nodes.lose(second)
    nodes.add()
    out, said = process.communicate(timeout=START_S)
    assert process.returncode == 0, out + said
    assert said.count("a worker was lost") == 1
    ours, calm = weights(folder), weights(trained)
    assert [name for name in calm if not torch.equal(ours[name], calm[name])] == []
    assert steps(folder) == list(range(1, NUM_UPDATES + 1))
    # the cluster is somebody else's: it lives on, and nothing of the run holds a part of it
    nodes.wait()
    until(lambda: not commands(process), 60, pause_s=0.2)


def test_missing_token_is_said_and_the_right_one_is_not_shown(world: World, tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="cpl-", dir="/tmp"))
    (world.folder / "doctor.yaml").write_text("model: model\ndata: {items: items.jsonl}\n")
    try:
        with cluster(folder / "ray", count=1, token="5a" * 32) as one:
            _, said = world.cpl("doctor", "doctor.yaml", exit_code=0, **one.environment)
            assert "shared storage: " in said
            assert "5a5a" not in said
            without = {**one.environment, "RAY_AUTH_TOKEN": "", "HOME": str(tmp_path)}
            _, said = world.cpl("doctor", "doctor.yaml", exit_code=1, **without)
            assert "refuses the token of this client; set RAY_AUTH_MODE=token and the head's token in" in said
            assert "shared storage: WRONG: not tried" in said
    finally:
        shutil.rmtree(folder, ignore_errors=True)
