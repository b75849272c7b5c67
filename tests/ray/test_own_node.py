"""A command that waits on a Ray whose raylet was killed ends by itself (one node, no workers)."""

import subprocess
import sys

from tests.ray.conftest import ROOT

# `asks`: as Ray Tune does with trials to be done again; Ray takes no notice. `idles`: as any library that only waits
WAITING = """
import sys, time
from typing import Any
import psutil, typer
from pipelines import interrupts
from pipelines.console import Outcome, execute
from pipelines.session import ray_session
from cpl_ray.config import Config
from tests.processes import command_line

def work() -> dict[str, Any]:
    import ray
    with ray_session(Config(model="m"), lambda text: None):
        groups = []
        (raylet,) = [one for one in psutil.Process().children() if "/raylet/raylet " in command_line(one)]
        raylet.kill()
        print("killed", flush=True)
        while sys.argv[1] == "idles":
            time.sleep(1)
        while not any(node["Alive"] is False for node in ray.nodes()):
            time.sleep(0.2)
        while True:
            groups.append(ray.util.placement_group([{"CPU": 1}]))
            time.sleep(1)

interrupts.see_to_the_end()
outcome = Outcome("sweep")
outcome.again = "cpl sweep a.yaml run.resume=true"
try:
    execute(outcome, work, print)
except typer.Exit as ended:
    sys.exit(ended.exit_code)
"""


def test_a_command_whose_node_is_lost_does_not_wait_for_ever() -> None:
    pipe = subprocess.PIPE
    commands = [[sys.executable, "-c", WAITING, how] for how in ("idles", "asks")]
    waiting = [subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) for command in commands]
    try:
        for process in waiting:
            out, err = process.communicate(timeout=150)
            assert out.startswith("killed\n"), err
            assert process.returncode == 1, err
            last = err.strip().splitlines()[-1]
            assert last.startswith("error: Ray lost a process that the command needs (the raylet of the node")
            assert last.endswith("; continue with: cpl sweep a.yaml run.resume=true")
            assert "Traceback" not in err
    finally:
        for process in waiting:
            process.kill()
