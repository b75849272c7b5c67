"""The live view: what it shows, that messages appear above it, and that it cannot harm what it shows."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from cpl_ray.metrics_log import Record, last_record
from cpl_ray.schedule import planned_updates
from pipelines.ages import duration
from pipelines.live import LiveView
from pipelines.progress import training_progress
from pipelines.training_view import TrainingState
from pipelines.voice import Voice

SHOW, HIDE = "\x1b[?25h", "\x1b[?25l"


def update(step: int, time: float, **values: float) -> Record:
    return Record(
        "train", step, time, {"loss_injection": 1.5, "collaborative_share": 0.5, "tokens_per_s": 1e4} | values
    )


def terminal(stream: io.StringIO) -> Console:
    return Console(file=stream, force_terminal=True, width=100, color_system=None)


def shown(state: TrainingState) -> str:
    console = Console(record=True, file=io.StringIO(), width=110)
    console.print(state)
    return console.export_text()


def test_the_view_of_a_training() -> None:
    state = TrainingState(planned=30)
    assert "update 0 of 30  starting" in shown(state)
    state.add(update(1, 100.0, loss_mastered=0.25, flip_rate=0.125))
    state.add(update(11, 120.0))
    counts = {"learned": 3.0, "learned_of": 8.0, "forgotten_validation": 1.0, "forgotten_validation_of": 5.0}
    state.add(Record("eval", 10, 118.0, counts | {"forgotten_in_set": 0.0, "forgotten_in_set_of": 0.0}))
    text = shown(state)
    expected = (
        "update 11 of 30",
        "at most 38 s left",
        "injection 1.500, mastered 0.250",
        "collaborative 0.500",
        "10,000 tokens/s",
        "at 10",
        "learned 3 of 8, forgotten (validation) 1 of 5",
    )
    assert [part for part in expected if part not in text] == []
    assert "in-set" not in text
    state.ended = True
    assert "left" not in shown(state)


def test_a_restart_does_not_count_as_pace() -> None:
    state = TrainingState(planned=10)
    for step, time in ((1, 0.0), (2, 1.0), (3, 2.0), (2, 500.0), (3, 501.0)):
        state.add(update(step, time))
    assert state.seconds_left() == 7.0


def test_messages_appear_above_and_the_cursor_comes_back() -> None:
    stream = io.StringIO()
    with LiveView(terminal(stream)) as view:
        view.update(Text("first state"))
        assert view.say("[bold]a message[/] " + "that is long " * 20)
        view.update(Text("last state"))
    text = stream.getvalue()
    assert "[bold]a message[/]" in text
    assert text.index("first state") < text.index("a message") < text.rindex("last state")
    assert text.count(HIDE) == text.count(SHOW) == 1
    assert view.say("after") is False


def test_the_cursor_comes_back_after_an_interruption() -> None:
    stream = io.StringIO()
    before = sys.stderr
    view = LiveView(terminal(stream))

    def interrupted() -> None:
        with view:
            view.update(Text("state"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert stream.getvalue().rstrip("\n").endswith(SHOW)
    assert sys.stderr is before


class Broken(io.StringIO):
    """A terminal that goes away."""

    gone = False

    def write(self, text: str) -> int:
        if self.gone:
            raise OSError(5, "Input/output error")
        return super().write(text)


class Undrawable:
    def __rich__(self) -> str:
        raise ZeroDivisionError


def test_a_view_that_cannot_be_drawn_ends_itself_only() -> None:
    before = sys.stderr
    for broken in (True, False):
        stream = Broken()
        with LiveView(terminal(stream)) as view:
            view.update(Text("state"))
            stream.gone = broken
            view.update(Undrawable())
            assert view.say("message") is False
        assert sys.stderr is before


def test_log_records_appear_above(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    handler = logging.StreamHandler(sys.stderr)
    logger = logging.getLogger("cpl_test_live")
    logger.addHandler(handler)
    try:
        with LiveView(terminal(stream)) as view:
            view.update(Text("state"))
            logger.error("a record")
            assert handler.stream is not stream
        assert handler.stream is stream
    finally:
        logger.removeHandler(handler)
    assert "a record" in stream.getvalue()


class ViewedVoice(Voice):
    """A voice with a live view on a stream."""

    def __init__(self, stream: io.StringIO) -> None:
        super().__init__()
        self.stream = stream

    @contextmanager
    def live(self) -> Iterator[LiveView | None]:
        with LiveView(terminal(self.stream)) as view:
            self._view = view
            yield view
        self._view = None


def records(path: Path) -> None:
    rows = [
        {"step": 0, "kind": "eval", "time": 1.0, "learned": 0.0, "learned_of": 4.0},
        {"step": 1, "kind": "train", "time": 2.0, "loss_injection": 1.25},
        {"step": 1, "kind": "eval", "time": 3.0, "learned": 1.0, "learned_of": 4.0},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_training_in_a_live_view_leaves_its_last_state(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    with training_progress(tmp_path / "metrics.jsonl", ViewedVoice(stream), 2):
        records(tmp_path / "metrics.jsonl")
    text = stream.getvalue()
    assert "update 1 of 2" in text
    assert "learned 1 of 4" in text
    assert "update     1 |" not in text + capfd.readouterr().err


def test_training_off_a_terminal_says_one_line_an_evaluation(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with training_progress(tmp_path / "metrics.jsonl", Voice(), 2):
        records(tmp_path / "metrics.jsonl")
    assert capfd.readouterr().err == "update     0 | learned 0/4\nupdate     1 | loss I 1.250 | learned 1/4\n"


def test_training_as_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("pipelines.progress.PROGRESS_S", 0.0)
    monkeypatch.setattr("pipelines.progress.POLL_S", 1000.0)  # one look, at the end
    with training_progress(tmp_path / "metrics.jsonl", Voice(as_json=True), 2):
        records(tmp_path / "metrics.jsonl")
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    evaluations = [event for event in events if event["event"] == "evaluation"]
    assert [(event["step"], event["learned"], event["learned_of"]) for event in evaluations] == [(0, 0, 4), (1, 1, 4)]
    (progress,) = [event for event in events if event["event"] == "progress"]
    assert (progress["step"], progress["planned_steps"], progress["loss_injection"]) == (1, 2, 1.25)


def test_planned_updates() -> None:
    assert (planned_updates(5, 3, None), planned_updates(5, 3, 7), planned_updates(5, 3, 20)) == (15, 7, 15)


def test_the_last_record_is_found_from_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    records(path)
    with path.open("a") as stream:
        stream.write('{"step": 9, "kind": "train", "torn')
    for size in (1, 7, 60, 1000):
        monkeypatch.setattr("cpl_ray.metrics_log._BLOCK_BYTES", size)
        found = [last_record(path, kind) for kind in ("train", "eval", "other")]
        assert [record and record.step for record in found] == [1, 1, None]
    assert last_record(tmp_path / "none", "train") is None


@pytest.mark.parametrize(
    ("seconds", "long", "short"),
    [
        (0, "0 s", "0 s"),
        (59.6, "1 min", "1 min"),
        (581, "9 min 41 s", "9 min"),
        (3 * 86400 + 4 * 3600, "3 d 4 h", "3 d"),
    ],
)
def test_durations(seconds: float, long: str, short: str) -> None:
    assert (duration(seconds), duration(seconds, short=True)) == (long, short)
