"""Training on a terminal: the live view, and Ctrl-C in the middle of it."""

import os
import pty
import signal
import threading

import pytest

from tests.ray.conftest import TRAIN, World, left_behind, steps, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def test_interrupted_on_a_terminal(world: World) -> None:
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

    process = world.start("train", "terminal.yaml", "run.name=seen", "train.epochs=400", stderr=terminal)
    os.close(terminal)
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    until(lambda: len(steps(world.runs / "seen")) >= 5 and b"update " in shown, 240)
    process.send_signal(signal.SIGINT)
    process.communicate()
    reader.join(10)
    os.close(screen)
    text = shown.decode()
    assert process.returncode == 130, text
    assert "of 1600" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    end = text[text.index("\x1b[?25h") :]
    assert "interrupted; continue with: cpl train terminal.yaml train.epochs=400 run.name=seen run.resume=true" in end
    assert left_behind(process) == []
