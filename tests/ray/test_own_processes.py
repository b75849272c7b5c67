"""What a command has started of Ray ends with it, also what does not notice (one node, its dashboard, one worker)."""

import json
import os
import subprocess
import sys
import uuid

from tests.ray.conftest import MARK, ROOT, marked

# the processes that are to notice by themselves that they are alone cannot, as if they hung
HANGING = """
import json, time
import psutil
from pipelines.session import ray_session
from cpl_ray.config import Config

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
        found = [one for one in psutil.Process().children(recursive=True) if one.is_running()]
        hanging = [one for one in found if "StateHead" in one.name() or "ray::Worker" in " ".join(one.cmdline())]
        if len(hanging) == 2 or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    assert len(hanging) == 2, [one.cmdline() for one in found]
    for one in hanging:
        one.suspend()
    known = {str(one.pid): one.create_time() for one in found}
print(json.dumps({"known": known, "left": [one.pid for one in found if one.is_running()]}))
"""


def test_no_process_outlives_the_session() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", MARK: uuid.uuid4().hex}
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.mark = environment[MARK]  # type: ignore[attr-defined]
    try:
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        said = json.loads(out.splitlines()[-1])
        assert len(said["known"]) >= 10  # head, raylet, monitors, dashboard, agents, worker
        assert said["left"] == []
        assert marked(process) == []
    finally:
        for one in marked(process):
            one.kill()
