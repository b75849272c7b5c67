"""The page of a sweep: finished, under way, and with what a failed trial left behind."""

import json
from pathlib import Path

import pytest

from cpl_ray.errors import DataError
from cpl_ray.report import render_report, write_report
from cpl_ray.report_sweep import read_sweep
from tests.report.folders import HOSTILE, make_sweep, write_json


def test_a_finished_sweep_shows_search_choice_trials_and_questions(tmp_path: Path) -> None:
    page = write_report(make_sweep(tmp_path / "sweep", error="<b>no</b> memory")).read_text(encoding="utf-8")
    wanted = ["0.0001 to 0.001, loguniform", "50, 100, 200, 401", "Inside the budget, it learned most."]
    wanted += [
        "On M validation",
        "On M test",
        "Forgetting by size of the mastered set",
        "200 mastered items are enough",
    ]
    wanted += ["&lt;b&gt;no&lt;/b&gt; memory", "Questions of the chosen point", "23 finished, 1 failed", "c0ffee"]
    assert [text for text in wanted if text not in page] == []
    assert "<b>no</b>" not in page
    assert "Not finished." not in page


def test_trials_have_a_column_for_every_key(tmp_path: Path) -> None:
    page = read_sweep(make_sweep(tmp_path / "sweep"))
    assert [name for name, _ in page.columns][:5] == ["trial", "optimizer.lr", "train.mastered_size", "seed", "state"]
    assert len(page.trials) == 24
    assert all(len(trial.cells) == len(page.columns) for trial in page.trials)
    assert sum(trial.chosen for trial in page.trials) == 2
    assert page.trials[5].cells[5].text == "–"
    assert page.best_run is not None
    assert page.best_run.questions is not None
    assert page.best_run.questions.forgotten_held_out == len(HOSTILE)


@pytest.mark.parametrize("state", ["running", "interrupted"])
def test_an_unfinished_sweep_has_a_page(tmp_path: Path, state: str) -> None:
    folder = make_sweep(tmp_path / "sweep", state=state)
    page = render_report(folder)
    assert f"Sweep, {state}" in page
    assert "Not finished." in page
    assert "7 pending" in page


def test_a_sweep_that_has_only_begun_has_a_page(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "sweep", state="running")
    sweep = json.loads((folder / "sweep.json").read_text())
    nothing: dict[str, object] = {
        "points": [],
        "pareto": [],
        "best": None,
        "by_size": [],
        "smallest_mastered_set": None,
    }
    for trial in sweep["trials"]:
        trial |= {"state": "pending", "learned": None, "forgotten": None, "seconds": None, "steps": None}
    write_json(folder / "sweep.json", sweep | nothing)
    page = render_report(folder)
    assert "No point has been chosen yet." in page
    assert "24 pending" in page
    assert 'id="pareto"' not in page
    write_json(folder / "sweep.json", {"sweep": "bare", "trials": []})
    assert "bare" in render_report(folder)


def test_a_best_trial_without_its_folder_is_said(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "sweep")
    next((folder / "trials").iterdir()).rename(tmp_path / "elsewhere")
    assert "no trial of the chosen point has a folder any more" in render_report(folder)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "sweep.json", {"trials": [{"index": 0}]})
    with pytest.raises(DataError, match=r"sweep\.json is not what `cpl sweep` writes"):
        render_report(tmp_path)
