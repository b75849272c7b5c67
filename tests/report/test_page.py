"""The page of a run: what it says, and that nothing in a folder can become markup, script or a leaked secret."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cpl_ray.errors import DataError, UserError
from cpl_ray.report import render_report, write_report
from cpl_ray.report_questions import MAX_CHARS, embedded_json, questions
from tests.report.folders import HOSTILE, SECRET, make_run, write_json


class Tags(HTMLParser):
    """Collects the tags of a page with their attributes, as a browser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


@pytest.fixture
def page(tmp_path: Path) -> str:
    return write_report(make_run(tmp_path / "run", warning="letter bias: <i>always A</i>")).read_text(encoding="utf-8")


def test_held_out_forgetting_comes_first(page: str) -> None:
    places = [page.index(f"<strong>{name}") for name in ("Forgotten, held-out", "Learned<", "Forgotten, validation")]
    assert places == sorted(places)
    assert "10 of 38" in page
    assert "it forgot 10 of 38 held-out questions" in page


def test_charts_settings_and_provenance_are_there(page: str) -> None:
    wanted = ["Learned against forgotten", "Loss while training", "What the rule lets move", "layers.7"]
    wanted += ["c0ffee", "with changes", "5e" * 32, "training 3, split 7", "choice_loglik", "2.13.0", "zero_stage: 2"]
    assert [text for text in wanted if text not in page] == []
    assert "letter bias: &lt;i&gt;always A&lt;/i&gt;" in page


def test_questions_are_embedded_whole_and_forgotten_held_out_first(page: str) -> None:
    rows = data_of(page)["rows"]
    assert len(rows) == 120
    assert {row[3] for row in rows[: len(HOSTILE)]} == set(HOSTILE)
    assert all((row[1], row[2]) == (0, 0) for row in rows[: len(HOSTILE)])
    flips = [row[2] for row in rows]
    assert flips == sorted(flips)


def test_no_question_becomes_markup(page: str) -> None:
    seen = Tags(page)
    assert [tag for tag, _ in seen.tags].count("script") == 2  # the data and ours
    assert not any(tag in ("img", "iframe", "link", "object", "base") for tag, _ in seen.tags)
    assert not any(name.startswith("on") or name == "style" for _, attributes in seen.tags for name in attributes)
    data = page[page.index('id="data">') + 10 :]
    data = data[: data.index("</script>")]
    assert not re.search("[<>&\u2028\u2029]", data)
    assert "<b>" not in data
    assert "Q: {question} &lt;b&gt;" in page


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    seen = Tags(page)
    assert not [
        (tag, a) for tag, a in seen.tags for name in a if name in ("src", "srcset", "data", "action", "xlink:href")
    ]
    assert all(str(a["href"]).startswith("#") for tag, a in seen.tags if "href" in a)
    policy = next(a["content"] for tag, a in seen.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in str(policy)
    assert "url(" not in page
    assert "@import" not in page


def test_secrets_are_redacted_and_base_model_is_its_name_only(page: str) -> None:
    assert SECRET not in page
    assert "https://***@mlflow.example.org/?token=***" in page.replace("&#39;", "'")
    assert "api_key: &#39;***&#39;" in page
    assert '<p class="soft">base-model, taught by' in page


@pytest.mark.parametrize(
    "text", ["</script>", "<!--", "<script", "]]>", "a\u2028b\u2029c", "\ud800 lone", '"\\', "&lt;", "\x00\x1f", "🦉 ש"]
)
def test_embedded_json_is_inert_and_the_same(text: str) -> None:
    embedded = str(embedded_json({text: [text]}))
    assert json.loads(embedded) == {text: [text]}
    assert not re.search("[<>&\u2028\u2029]", embedded)
    embedded.encode("utf-8")


def test_long_texts_are_cut_and_infinite_margins_are_none(tmp_path: Path) -> None:
    table = pq.read_table(make_run(tmp_path / "run", asked=("long " * MAX_CHARS,)) / "flips.parquet")
    margins = [float("inf")] * table.num_rows
    name = table.column_names.index("after_margin")
    found = questions(table.set_column(name, "after_margin", [margins]))
    rows = json.loads(found.data)["rows"]
    assert found.cut == 2  # the question, and the answer that repeats it
    assert len(rows[0][3]) == MAX_CHARS
    assert {row[8] for row in rows} == {None}
    assert not found.margins


def test_missing_pieces_are_left_out(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    for name in ("metrics.jsonl", "manifest.json", "environment.json", "flips.parquet", "config.yaml"):
        (folder / name).unlink()
        page = render_report(folder)
        assert "Forgotten, held-out" in page
    assert 'id="curves"' not in page
    assert 'id="data"' not in page
    assert "no flips.parquet" in page
    write_json(folder / "result.json", {})
    assert "Nothing was measured." in render_report(folder)


def test_without_layer_records_there_is_no_heat_map(tmp_path: Path) -> None:
    make_run(tmp_path / "run", layers=False)
    assert "by layer" not in render_report(tmp_path / "run")


@pytest.mark.parametrize("admitted", [True, False])
def test_the_gate_is_shown_once_it_has_spoken(tmp_path: Path, admitted: bool) -> None:
    folder = make_run(tmp_path / "run")
    result = json.loads((folder / "result.json").read_text())
    assert "by the gate" not in render_report(folder)
    gate = {"admitted": admitted, "reasons": [] if admitted else ["forgot <b>much</b>"], "name": "m", "version": "4"}
    write_json(folder / "result.json", result | {"gate": gate})
    page = render_report(folder)
    assert ("Admitted by the gate" in page) == admitted
    assert ("Refused by the gate" in page) != admitted
    assert ("forgot &lt;b&gt;much&lt;/b&gt;" in page) != admitted


def test_unevaluated_and_damaged_runs_say_what_is_wrong(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "result.json").write_text('{"run": ')
    with pytest.raises(DataError, match=r"result\.json is damaged"):
        write_report(folder)
    (folder / "result.json").unlink()
    with pytest.raises(UserError, match=r"'run' has not been evaluated.*cpl evaluate"):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_a_failing_report_is_a_warning_for_the_stage(tmp_path: Path) -> None:
    from cpl_ray.config import Config
    from cpl_ray.rundir import RunDir
    from pipelines.stages import write_report_of

    run = RunDir(
        Config.model_validate({"model": "m", "data": {"items": "a"}, "run": {"name": "r", "dir": str(tmp_path)}})
    )
    said: list[str] = []

    def say(message: str, *, event: str = "say", **fields: Any) -> None:
        said.append(message)

    make_run(run.root)
    assert write_report_of(run, say) == [run.report]
    assert said == []
    run.flips.write_bytes(b"no parquet")
    assert write_report_of(run, say) == []
    assert len(said) == 1
    assert "warning: no report was written" in said[0]
    assert "cpl report" in said[0]
