"""`cpl runs` and `cpl runs show` as a user meets them."""

import json
from pathlib import Path

import pytest

from tests.cli.test_cli import cpl

RATE = {"count": 3, "of": 241, "share": 0.0124, "low": 0.0026, "high": 0.036}
TRAIN = {"step": 90, "kind": "train", "time": 1.0, "loss_injection": 0.5}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a finished run, one that failed, a broken one and a sweep in `runs`."""
    for name in ("done", "lost", "broken", "sweep"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        text = f"model: models/base\nrun: {{name: {name}}}\n"
        (tmp_path / "runs" / name / "config.yaml").write_text(text)
    runs = tmp_path / "runs"
    gate = {"admitted": False, "reasons": ["learned 1 % is below"]}
    result = {"learned": RATE | {"count": 191}, "forgotten": {"held_out": RATE}, "steps": 90, "gate": gate}
    (runs / "done" / "result.json").write_text(json.dumps(result))
    (runs / "done" / "registered.json").write_text(json.dumps({"name": "cpl-model", "version": "4", "uri": "u"}))
    (runs / "lost" / "metrics.jsonl").write_text(json.dumps(TRAIN) + "\n")
    (runs / "lost" / "failure-20261122-000000.txt").write_text("ZeroDivisionError: [by] zero")
    (runs / "broken" / "result.json").write_text("{")
    point = {"point_id": 0, "point": {"optimizer.lr": 1e-4}, "trials": [0, 1], "learned": RATE, "pareto": True}
    trial = {"index": 0, "point_id": 0, "seed": 0, "state": "finished", "learned": RATE, "steps": 90, "seconds": 31.2}
    trials = [trial, {**trial, "index": 1, "state": "failed", "error": "out of memory"}]
    sweep = {"sweep": "sweep", "model": "models/base", "state": "running", "space": {"optimizer.lr": [1e-4]}}
    best = {"point_id": 0, "reason": "learned most"}
    (runs / "sweep" / "sweep.json").write_text(json.dumps(sweep | {"trials": trials, "points": [point], "best": best}))
    return tmp_path


def test_the_list(folder: Path) -> None:
    done = cpl("runs", folder=folder)
    assert done.returncode == 0, done.stderr
    lines = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith("│")}
    for name, *words in (
        ("done", "finished", "base", "cpl", "191/241 (79.3 %)", "3/241 (1.2 %)", "90"),
        ("lost", "failed", "90"),
        ("broken", "damaged"),
        ("sweep", "interrupted", "1/2 trials"),
    ):
        assert [word for word in words if f" {word} " not in lines[name]] == []
    assert "broken is damaged: result.json is not valid JSON" in done.stdout


def test_the_list_for_machines(folder: Path) -> None:
    for arguments in (("runs", "--json"), ("runs", "--runs", str(folder / "runs"), "--json")):
        found = json.loads(cpl(*arguments, folder=folder).stdout)
        assert {row["name"]: row["state"] for row in found["runs"]} == {
            "done": "finished",
            "lost": "failed",
            "broken": "damaged",
            "sweep": "interrupted",
        }


def test_one_run(folder: Path) -> None:
    text = cpl("runs", "show", "done", folder=folder).stdout
    words = ("finished", "cpl-model version 4", "refused: learned 1 % is below", "held-out (M test)", "0.3–3.6 %")
    assert [word for word in words if word not in text] == []
    assert "continue" not in text
    text = cpl("runs", "--runs", "runs", "show", "lost", folder=folder).stdout
    assert "ZeroDivisionError: [by] zero" in text
    assert text.endswith(f"cpl run {folder}/runs/lost/config.yaml run.resume=true\n")
    text = cpl("runs", "show", "runs/broken", folder=folder).stdout
    assert "damaged: result.json is not valid JSON" in text


def test_the_command_that_continues_a_run_finds_it(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "runs" / "lost").rename(folder / "elsewhere" / "moved")
    shown = cpl("runs", "show", "moved", "--runs", "elsewhere", "--json", folder=folder)
    command = json.loads(shown.stdout)["resume"]
    assert command.endswith(f"run.resume=true run.name=moved run.dir={folder}/elsewhere")


def test_one_sweep(folder: Path) -> None:
    text = cpl("runs", "show", "sweep", folder=folder).stdout
    words = ("interrupted", "1 failed, 1 finished", "point 0 (optimizer.lr=0.0001): learned most", "31 s")
    assert [word for word in words if word not in text] == []
    assert "trial 1 failed: out of memory" in text
    assert text.endswith(f"cpl sweep {folder}/runs/sweep/config.yaml run.resume=true\n")
    found = json.loads(cpl("runs", "--json", "show", "sweep", folder=folder).stdout)
    assert (found["verb"], found["best_point"]["point"]) == ("runs show", {"optimizer.lr": 1e-4})


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Return the folder of a study that was interrupted in its first run."""
    folder = tmp_path / "runs" / "asked"
    for place, name in ((folder, "asked"), (folder / "runs" / "cpl-1", "cpl-1")):
        place.mkdir(parents=True)
        (place / "config.yaml").write_text(f"model: models/base\nrun: {{name: {name}}}\n")
    (folder / "study.json").write_text(json.dumps({"study": "sequential", "state": "running"}))
    return folder


def test_an_interrupted_study(study: Path, tmp_path: Path) -> None:
    listed = cpl("runs", folder=tmp_path).stdout
    assert "study sequential" in listed
    shown = cpl("runs", "show", "asked", folder=tmp_path).stdout
    assert "cpl-1" in shown
    assert f"cpl study sequential {study / 'config.yaml'} run.resume=true" in shown
    report = cpl("report", "asked", folder=tmp_path)
    assert report.returncode == 3
    assert "is a study that has not finished" in report.stderr


def test_a_finished_study(study: Path, tmp_path: Path) -> None:
    page = {"study": "sequential", "state": "finished", "verdict": "It [b]holds[/b].", "headline": {"bwt_cpl": -0.25}}
    (study / "study.json").write_text(json.dumps(page))
    (study / "verdict.md").write_text("# sequential\n\nIt holds.\n")
    shown = cpl("runs", "show", "asked", folder=tmp_path).stdout
    assert "It [b]holds[/b]." in shown
    assert "-0.25" in shown
    assert "run.resume" not in shown
    report = cpl("report", "asked", folder=tmp_path)
    assert (report.returncode, report.stdout) == (0, f"{study / 'verdict.md'}\n")
    refused = cpl("report", "asked", "--out", "x.html", folder=tmp_path)
    assert refused.returncode == 3
    assert "--out" in refused.stderr
