"""What a sweep shows and says: the live view, lines, events, the table of its points, and refusals."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cpl_ray.config import Config
from cpl_ray.sweep_book import SweepBook
from cpl_ray.trials import Trial
from pipelines.__main__ import main
from pipelines.sweep import show_sweep
from pipelines.sweep_view import SweepState
from pipelines.sweep_watch import SweepWatch


@pytest.fixture
def book(tmp_path: Path) -> SweepBook:
    """Return a sweep of four trials, of which the first has finished and the second runs."""
    space = {"optimizer.lr": [1e-4, 3e-4], "train.mastered_size": [50, 100]}
    settings = {"search": {"space": space}, "run": {"dir": str(tmp_path), "name": "sweep"}}
    config = Config.model_validate({"model": "m", "tracking": {"enabled": False}, **settings})
    (tmp_path / "sweep").mkdir()
    made = SweepBook(tmp_path / "sweep", config, concurrency=2, resume=False)
    for learned in (95, None):
        trial = made.next()
        assert trial is not None
        if learned is not None:
            finish(made, trial, learned)
    return made


def finish(book: SweepBook, trial: Trial, learned: int) -> None:
    rates = {part: {"count": 2, "of": 100} for part in ("held_out", "validation", "in_set")}
    result = {"learned": {"count": learned, "of": 100}, "forgotten": rates, "steps": 7}
    size = {"mastered_size": trial.point["train.mastered_size"], "mastered_sha256": "0" * 64}
    (book.run_folder(trial) / "result.json").write_text(json.dumps(result | size))
    book.ended(trial.index, seconds=60.0)


def test_the_live_view(book: SweepBook) -> None:
    state = SweepState(book, concurrency=2, seconds=[60.0])
    counts = {"learned": 12.0, "learned_of": 100.0, "forgotten_validation": 1.0, "forgotten_validation_of": 100.0}
    state.evaluations[1] = {"step": 15.0, **counts}
    console = Console(record=True, file=io.StringIO(), width=160)
    console.print(state)
    text = console.export_text()
    expected = (
        "1 of 4",
        "1 finished",
        "about 1 min 30 s left",
        "optimizer.lr=0.0001 train.mastered_size=100 seed=0",
        "15",
        "12 of 100",
        "0 *",
        "learned 95 of 100 (95.0 %), forgotten of validation 2 of 100",
    )
    assert [part for part in expected if part not in text] == []


def test_lines_for_people_and_events_for_programs(book: SweepBook) -> None:
    said: list[tuple[str, str, dict[str, Any]]] = []

    def say(message: str, *, event: str = "say", **fields: Any) -> None:
        said.append((event, message, fields))

    class Quiet:
        """A tracker that is not there."""

        run = None

        def __getattr__(self, name: str) -> Any:
            return lambda *args, **more: None

    watch = SweepWatch(book, Quiet(), say, concurrency=2)  # type: ignore[arg-type]
    with watch:
        watch.ended(book.failed(1, 30.0, "NonFiniteError: the injection loss is nan\nmore"))
        watch.lost(book.trials[0])
    (event, message, fields) = said[0]
    assert event == "trial_ended"
    assert message == (
        "trial 001 failed   optimizer.lr=0.0001 train.mastered_size=100 seed=0 | "
        "NonFiniteError: the injection loss is nan | 2 of 4, about 30 s left"
    )
    assert (fields["index"], fields["state"], fields["point"]["train.mastered_size"]) == (1, "failed", 100)


def test_what_a_lost_server_lacks_of_an_ended_trial_is_sent_at_the_end(book: SweepBook) -> None:
    class Lost:
        """A tracker whose server is away when the trial ends, and back when the sweep does."""

        def __init__(self) -> None:
            self.run = None
            self.lost: str | None = "connection refused"
            self.closed: list[str] = []

        def __getattr__(self, name: str) -> Any:
            return lambda *args, **more: None

        def finish(self, status: str, *, timeout_s: float = 5.0) -> None:
            self.closed.append(status)

    away, here = Lost(), Lost()
    here.lost = None
    watch = SweepWatch(book, away, lambda *args, **more: None, concurrency=2)  # type: ignore[arg-type]
    with watch:
        watch._trackers |= {1: away, 2: here}  # type: ignore[dict-item]
        for index in (1, 2):
            watch.ended(book.failed(index, 30.0, "no"))
        assert (away.closed, here.closed) == (["FAILED"], ["FAILED"])
    assert (away.closed, here.closed) == (["FAILED", "FAILED"], ["FAILED"])


def test_the_table(book: SweepBook, capsys: pytest.CaptureFixture[str]) -> None:
    content = {**book.conclude("finished"), "best_config": "runs/sweep/best.yaml"}
    show_sweep(content, None)
    out = capsys.readouterr().out
    expected = ("95 of 100", "2 of 100", "chosen", "not compared: trial 1 running", "choice: the least forgetting")
    assert [part for part in expected if part not in out] == []
    assert "mastered set: 50 mastered items are enough for a budget of 5 %" in out
    assert "next: cpl run runs/sweep/best.yaml run.name=NAME" in out


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("search.trials=3", "search.space is empty"),
        ("search.space={optimizer.rate: [1]}", "unknown key 'optimizer.rate'"),
        ("search.space={split.seed: [1, 2]}", "which all trials share"),
        ("search.trials=0", "search.trials: got 0; expected an integer of at least 1"),
    ],
)
def test_a_useless_space_is_refused_before_anything_starts(
    override: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text("model: m\ndata: {items: items.jsonl}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["cpl", "sweep", "c.yaml", "run.name=s", override])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 3
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/s/[a-z]*"))
