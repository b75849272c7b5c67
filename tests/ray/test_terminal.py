"""Training on a terminal: the live view, and Ctrl-C or SIGTERM in the middle of it."""

import json
import os
import pty
import signal
import threading

import pytest
from mlflow import MlflowClient

from tests.ray.conftest import TRAIN, World, left_behind, steps, until

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
    until(lambda: len(steps(world.runs / word)) >= 5 and b"update " in shown, 240)
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
