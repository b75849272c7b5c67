"""`cpl compare` on the command line: what it prints of its tables, what `cpl runs` says of it, and what is refused."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cpl_ray.compare_book import CompareBook
from cpl_ray.config import Config
from cpl_ray.listing import look_at
from cpl_ray.loading import dump_config
from cpl_ray.run_details import find_run
from pipelines.__main__ import main
from pipelines.compare import show_comparison
from pipelines.run_page import print_page
from pipelines.sweep_view import SweepState


@pytest.fixture
def book(tmp_path: Path) -> CompareBook:
    """Return a comparison of two methods with one rate and one seed; one has finished, one has failed."""
    tree = {
        "model": "m",
        "data": {"items": "items.jsonl"},
        "train": {"stop_at_learned": 0.9},
        "compare": {"methods": ["cpl", "fine_tuning"], "rates": [1e-4]},
        "run": {"dir": str(tmp_path), "name": "compare"},
        "tracking": {"enabled": False},
    }
    config = Config.model_validate(tree)
    (tmp_path / "compare").mkdir()
    (tmp_path / "compare" / "config.yaml").write_text(dump_config(config))
    made = CompareBook(tmp_path / "compare", config, resume=False)
    first, second = made.next(), made.next()
    assert first is not None
    assert second is not None
    rate = {"count": 3, "of": 100}
    result: dict[str, Any] = {
        "learned": {"count": 91, "of": 100},
        "forgotten": dict.fromkeys(("held_out", "validation", "in_set"), rate),
        **{"steps": 7, "mastered_size": 9, "mastered_sha256": "0", "stopped_at_learned": True},
        **{"collaborative_share": 0.5, "inside_budget": None, "state_bytes_per_param": 9.0},
    }
    (made.run_folder(first) / "result.json").write_text(json.dumps(result))
    made.ended(first.index, seconds=60.0)
    made.failed(second.index, 1.0, "ConfigError: it does not go together")
    return made


def test_the_tables_and_what_failed(book: CompareBook, capsys: pytest.CaptureFixture[str]) -> None:
    show_comparison(book.conclude("finished"), None)
    out = capsys.readouterr().out
    assert "At equal learning: every method stops at the first evaluation with 90 % learned" in out
    assert "91 of 100 (91.0 %)" in out
    assert "3 of 100 (3.0 %)" in out
    assert "failed: trial 1, fine_tuning lr=0.0001: ConfigError: it does not go together" in out


def test_the_live_view_names_methods(book: CompareBook) -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(SweepState(book, concurrency=1))
    text = console.export_text()
    assert "2 of 2" in text
    assert "cpl optimizer.lr=0.0001" in text


def test_it_is_listed_and_shown(book: CompareBook, capsys: pytest.CaptureFixture[str]) -> None:
    book.conclude("finished")
    listed = look_at(book.folder)
    assert listed is not None
    assert (listed.kind, listed.state, listed.trials) == ("compare", "finished", {"finished": 1, "failed": 1})
    assert listed.learned is not None
    assert listed.learned["count"] == 91
    print_page(find_run("compare", book.folder.parent) | {"resume": None})
    assert "91 of 100 (91.0 %)" in capsys.readouterr().out
    (book.folder / "compare.json").write_text('{"state": "finished", "methods": 3}')
    damaged = look_at(book.folder)
    assert damaged is not None
    assert (damaged.kind, damaged.state) == ("compare", "damaged")
    print_page(find_run("compare", book.folder.parent) | {"resume": None})


def test_mistakes_are_refused_before_anything_is_made(
    book: CompareBook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = book.folder / "config.yaml"
    for overrides, said in (
        (["compare.methods=[cpl, ewcc]"], "did you mean ewc"),
        (["train.stop_at_learned=null"], "train.stop_at_learned is null"),
        (["compare.seeds=[1, 1]"], "compare.seeds: 1 stands there twice"),
    ):
        for verb in ("compare", "validate"):
            monkeypatch.setattr("sys.argv", ["cpl", verb, str(path), "run.name=other", *overrides])
            with pytest.raises(SystemExit) as left:
                main()
            assert left.value.code == 3
            assert said in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
