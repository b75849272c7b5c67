"""cluster/slurm.sh with commands that stand in for Slurm's: what is started, continued, and told of failures."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.stand_ins import fake_ray, run_script, stand_in

# prints how it was called, and runs what stands behind the first `--` as `ray symmetric-run` does on the first node
SRUN = r"""printf '%s\n' "wait=$RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT" "$@"
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
"""
# the code of the installed Ray, with `ray start` and `ray stop` as they are on the PATH; other Rays of this machine are
# none of its business
RAY = r"""if [ "$1" = symmetric-run ]; then
exec "$REAL_PYTHON" -c '
import sys
from ray.scripts import symmetric_run as module
module.check_ray_already_started = lambda: False
module.symmetric_run(sys.argv[2:])' "$@"
fi
if [ "$1" = start ]; then exit "${START_CODE:-0}"; fi
"""


def job(folder: Path, **variables: str) -> dict[str, str]:
    """Return the environment of a job of two nodes; its `python` ends with VERB_CODE."""
    environment = fake_ray(folder)
    stand_in(folder, "srun", SRUN)
    stand_in(folder, "scontrol", r"printf 'n%s\n' 07 08")
    stand_in(folder, "python", 'echo "verb: $*"; exit "${VERB_CODE:-0}"')
    of_slurm = {"SLURM_JOB_ID": "40017", "SLURM_JOB_NODELIST": "n[07-08]", "SLURM_JOB_NUM_NODES": "2"}
    place = {"SLURM_SUBMIT_DIR": str(folder / "project"), "SLURM_CPUS_ON_NODE": "16"}
    return environment | of_slurm | place | variables


def verb(folder: Path) -> tuple[str, ...]:
    return ("run", "a.yaml", f"run.dir={folder / 'runs'}", "run.name=a")


def said_by_verb(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line.removeprefix("verb: ") for line in done.stdout.splitlines() if line.startswith("verb: ")]


def test_slurm_starts_ray_on_all_nodes_and_the_verb_on_the_first(tmp_path: Path) -> None:
    done = run_script(tmp_path, "slurm.sh", job(tmp_path), *verb(tmp_path))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[lines.index("--address") + 1] == "n07:20017"
    assert lines[lines.index("--min-nodes") + 1] == "2"
    assert lines[lines.index("--num-cpus") + 1] == "16"
    assert lines[0] == "wait=300"
    assert said_by_verb(done) == [" ".join(("-m pipelines", *verb(tmp_path)))]
    assert not list((tmp_path / "project").glob(".cpl-*"))


def test_slurm_keeps_a_patience_that_is_set(tmp_path: Path) -> None:
    environment = job(tmp_path, RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT="900")
    assert run_script(tmp_path, "slurm.sh", environment, *verb(tmp_path)).stdout.startswith("wait=900\n")


def test_slurm_job_that_is_started_again_continues_the_run(tmp_path: Path) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "config.yaml").touch()
    done = run_script(tmp_path, "slurm.sh", job(tmp_path, SLURM_RESTART_COUNT="1"), *verb(tmp_path))
    assert said_by_verb(done)[0].endswith(" run.name=a run.resume=true")


def test_slurm_job_that_is_started_again_begins_where_nothing_was_begun(tmp_path: Path) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    done = run_script(tmp_path, "slurm.sh", job(tmp_path, SLURM_RESTART_COUNT="1"), *verb(tmp_path))
    assert said_by_verb(done)[0].endswith(" run.name=a")


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_slurm_job_ends_as_its_verb_did(tmp_path: Path, code: int) -> None:
    done = run_script(tmp_path, "slurm.sh", job(tmp_path, VERB_CODE=str(code)), *verb(tmp_path))
    assert done.returncode == code


def test_slurm_job_fails_with_a_verb_whose_failure_ray_did_not_hand_on(tmp_path: Path) -> None:
    environment = job(tmp_path, VERB_CODE="2")
    stand_in(tmp_path, "srun", SRUN.replace("exec", "") + "exit 0")
    assert run_script(tmp_path, "slurm.sh", environment, *verb(tmp_path)).returncode == 2


@pytest.mark.parametrize(("start_code", "code"), [("0", 0), ("1", 1)])
def test_slurm_job_fails_where_ray_does_not_start(tmp_path: Path, start_code: str, code: int) -> None:
    """One node, on loopback: Ray's `symmetric-run` ends with 0 though `ray start` failed."""
    environment = job(tmp_path, START_CODE=start_code, SLURM_JOB_NUM_NODES="1", REAL_PYTHON=sys.executable)
    stand_in(tmp_path, "ray", RAY)
    stand_in(tmp_path, "scontrol", "echo 127.0.0.1")
    stand_in(tmp_path, "srun", 'shift\n"$@"\ncode=$?\necho "srun: $code"\nexit "$code"')
    done = run_script(tmp_path, "slurm.sh", environment, *verb(tmp_path))
    assert "srun: 0" in done.stdout, done.stderr
    assert done.returncode == code
    assert len(said_by_verb(done)) == 1 - code
    assert ("slurm.sh: the verb was not run to its end" in done.stderr) == bool(code)


def test_slurm_hands_a_signal_on_and_waits(tmp_path: Path) -> None:
    environment = job(tmp_path)
    stand_in(tmp_path, "srun", "trap 'echo told; sleep 1; exit 143' TERM\necho ready\nwhile :; do sleep 0.1; done")
    script = tmp_path / "project" / "cluster" / "slurm.sh"
    process = subprocess.Popen([str(script), *verb(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == "told\n"
    assert process.returncode == 143


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
    done = run_script(tmp_path, "slurm.sh", job(tmp_path), *arguments)
    assert done.returncode == 3
    assert done.stderr.startswith("slurm.sh: ")
    assert said in done.stderr
