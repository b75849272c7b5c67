"""What a command has started of Ray ends with it, also what does not notice (one node, its dashboard, one worker)."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import psutil

from pipelines.own_processes import of_session, see_off
from tests.processes import command_line, kill, lives
from tests.ray.conftest import MARK, ROOT, marked, until

# the processes that are to notice by themselves that they are alone cannot, as if they hung
HANGING = """
import json, time
import psutil
from pipelines.session import ray_session
from cpl_ray.config import Config
from tests.processes import command_line, lives

with ray_session(Config(model="m"), lambda text: None, dashboard=True):
    import ray

    @ray.remote
    class Worker:
        def ready(self) -> bool:
            return True

    worker = Worker.remote()
    ray.get(worker.ready.remote())
    deadline = time.monotonic() + 60
    while True:
        found = psutil.Process().children(recursive=True)
        hanging = [one for one in found if any(name in command_line(one) for name in ("StateHead", "ray::Worker"))]
        if len(hanging) == 2 or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    assert len(hanging) == 2, [command_line(one) for one in found]
    for one in hanging:
        one.suspend()
print(json.dumps({"found": len(found), "left": [one.pid for one in found if lives(one)]}))
"""


def test_no_process_outlives_the_session() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", MARK: uuid.uuid4().hex}
    pipe, command = subprocess.PIPE, [sys.executable, "-c", HANGING]
    process = subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    process.mark = environment[MARK]  # type: ignore[attr-defined]
    try:
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        said = json.loads(out.splitlines()[-1])
        assert said["found"] >= 10  # head, raylet, monitors, dashboard, agents, worker
        assert said["left"] == []
        assert marked(process) == []
    finally:
        process.kill()
        kill(*marked(process))


def orphan(*arguments: str) -> psutil.Process:
    """Start a process that sleeps, called with these arguments, as the child of one that has ended."""
    sleeps = [sys.executable, "-c", "import time; time.sleep(120)", *arguments]
    shell = ["sh", "-c", '"$@" >/dev/null 2>&1 & echo $!', "sh", *sleeps]
    found = psutil.Process(int(subprocess.run(shell, capture_output=True, text=True, check=True).stdout))
    until(lambda: command_line(found).endswith(arguments[-1]), 30)  # the shell's own before
    return found


def test_a_worker_whose_raylet_has_gone_is_seen_off_and_a_reader_of_its_logs_is_not(tmp_path: Path) -> None:
    session = str(tmp_path / "session")
    worker = orphan("/lib/ray/_private/workers/default_worker.py", f"--raylet-name={session}/sockets/raylet")
    reader = orphan(f"{session}/logs/raylet.out")
    try:
        assert of_session(session) == [worker]
        assert see_off([worker], 0.1) == [worker]
        until(lambda: not lives(worker), 30)
        assert lives(reader)
    finally:
        kill(worker, reader)
