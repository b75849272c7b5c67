"""Training on a terminal: the live view, and Ctrl-C or SIGTERM in the middle of it."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading

import pytest
from mlflow import MlflowClient

from tests.ray.conftest import TRAIN, World, left_behind, until, until_trained

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_ended_on_a_terminal(world: World, number: signal.Signals, code: int, word: str) -> None:
    (world.folder / "terminal.yaml").write_text(TRAIN)
    screen, terminal = pty.openpty()
    shown = bytearray()

    def read() -> None:
        while True:
            try:
                data = os.read(screen, 4096)
            except OSError:  # the last process that had the terminal has closed it
                return
            shown.extend(data)

    process = world.start("train", "terminal.yaml", f"run.name={word}", "train.epochs=400", stderr=terminal)
    os.close(terminal)
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    until_trained(process, world.runs / word)
    until(lambda: b"update " in shown, 60)
    process.send_signal(number)
    process.communicate()
    reader.join(10)
    os.close(screen)
    text = shown.decode()
    assert process.returncode == code, text
    assert "of 1600" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    end = text[text.index("\x1b[?25h") :]
    assert f"{word}; continue with: cpl train terminal.yaml train.epochs=400 run.name={word} run.resume=true" in end
    tracked = json.loads((world.runs / word / "tracking.json").read_text())
    assert MlflowClient(tracked["uri"]).get_run(tracked["run_id"]).info.status == "KILLED"
    assert left_behind(process) == []


AFTERWARDS = """
import sys, time
from typing import Any
import typer
from cpl_ray.config import Config
from pipelines import interrupts
from pipelines.console import Outcome, execute
from pipelines.session import ray_session
interrupts.see_to_the_end()
outcome = Outcome("env")
def work() -> dict[str, Any]:
    with ray_session(Config(model="m"), outcome.say, storage=False):
        pass
    print("ready", flush=True)
    time.sleep(1000)
    return {}
try:
    execute(outcome, work, print)
except typer.Exit as ended:
    sys.exit(ended.exit_code)
"""


def test_sigterm_is_ours_after_ray_has_been_left(world: World) -> None:
    """As `cpl run` registers: Ray's native handler had taken ours away by then."""
    process = subprocess.Popen(
        [sys.executable, "-c", AFTERWARDS],
        cwd=world.folder,
        env=world.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 143, said
    assert said.splitlines()[-1] == "error: terminated"
