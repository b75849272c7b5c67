"""`cpl report` as a user meets it: names and paths, where the file goes, messages and exit codes."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cpl_ray.errors import ConfigError
from cpl_ray.report_source import find_folder
from cpl_ray.tracking_uri import redacted
from pipelines.__main__ import app
from tests.report.folders import make_run, make_sweep


def test_by_name_by_path_and_to_a_file(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "first", num=30)
    cli = CliRunner()
    done = cli.invoke(app, ["report", "first", "--runs", str(tmp_path / "runs")])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tmp_path / "runs" / "first" / "report.html")
    assert (tmp_path / "runs" / "first" / "report.html").is_file()
    out = tmp_path / "new" / "a.html"
    done = cli.invoke(app, ["report", str(tmp_path / "runs" / "first"), "--out", str(out), "--json", "-q"])
    assert json.loads(done.stdout) | {"folder": ""} == {
        "verb": "report",
        "ok": True,
        "exit_code": 0,
        "kind": "run",
        "folder": "",
        "report": str(out),
    }
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("absent", 3, ("'absent'", "newest there: ", "first", "sweep")),
        ("trained", 1, ("'trained' has not been evaluated", "cpl evaluate")),
        ("other", 3, ("neither a run nor a sweep",)),
    ],
)
def test_what_cannot_be_shown(tmp_path: Path, name: str, code: int, words: tuple[str, ...]) -> None:
    make_run(tmp_path / "first", num=30)
    make_run(tmp_path / "trained", num=30)
    (tmp_path / "trained" / "result.json").unlink()
    make_sweep(tmp_path / "sweep")
    (tmp_path / "other").mkdir()
    done = CliRunner().invoke(app, ["report", name, "--runs", str(tmp_path), "--json"])
    assert done.exit_code == code
    message = json.loads(done.stdout)["error"]["message"]
    assert [word for word in words if word not in message] == []


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    make_run(tmp_path / "first", num=30)
    done = CliRunner().invoke(app, ["report", str(tmp_path / "first"), "--out", str(tmp_path)])
    assert done.exit_code == 3
    assert "--out" in done.stderr
    with pytest.raises(ConfigError, match="does not exist"):
        find_folder("first", tmp_path / "nowhere")


def test_secrets_are_found_at_any_depth() -> None:
    settings = {"a": [{"token": "x"}, "http://u:p@h/"], "hub": {"api_key": 3, "name": "n"}, "password": None}
    expected = {"a": [{"token": "***"}, "http://***@h/"], "hub": {"api_key": "***", "name": "n"}, "password": None}
    assert redacted(settings) == expected
