"""Run folders whose files hold values of other kinds than the stages write: shown, or refused with the file's name.

A change at one place of one file at a time, from a fixed seed: what `cpl runs`, `cpl runs show` and `cpl report` do
with it is either a page or one sentence for the user.
"""

import copy
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cpl_ray.errors import DataError, UserError
from cpl_ray.ledger import read_ledger
from cpl_ray.listing import age_of, list_runs
from cpl_ray.metrics_log import last_record, parse_record, read_records
from cpl_ray.report import render_report
from cpl_ray.run_details import find_run
from pipelines.resume_command import with_resume
from pipelines.run_page import print_page
from pipelines.runs import _show_list
from tests.report.folders import make_run, make_sweep

HUGE = 10**400
ODD = [None, True, -1, 0, 1e308, float("nan"), float("inf"), HUGE, "", "x", "12", "[/red]", "\0", [], [1], {}, {"a": 1}]
CASES = {"result.json": 120, "manifest.json": 40, "environment.json": 20, "sweep.json": 80}
Way = tuple[str | int, ...]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs")
    make_run(place / "a", num=30)
    for ledger in make_sweep(place / "s").rglob("flips.parquet"):
        ledger.unlink()  # the questions of the best trial take most of the time, and are not what is changed
    return place


@pytest.fixture
def run(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base / "a", tmp_path / "a"))


def ways(value: Any, way: Way = ()) -> Iterator[Way]:
    yield way
    below = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, one in below:
        yield from ways(one, (*way, key))


def changed(content: Any, way: Way, value: Any) -> Any:
    if not way:
        return value
    content = copy.deepcopy(content)
    place = content
    for key in way[:-1]:
        place = place[key]
    place[way[-1]] = value
    return content


def listed(base: Path) -> None:
    found = []
    for one in list_runs(base):
        age_s, took_s = age_of(one)
        found.append(one.to_dict() | {"age_s": age_s, "took_s": took_s})
    _show_list({"runs_dir": str(base), "runs": found})


@pytest.mark.parametrize("name", CASES)
def test_one_value_of_another_kind(base: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = base / ("s" if name == "sweep.json" else "a")
    path = folder / name
    text = path.read_text()
    content = json.loads(text)
    rng = random.Random(name)
    views: dict[str, Callable[[], object]] = {
        "list": lambda: listed(base),
        "show": lambda: print_page(with_resume(find_run(folder.name, base))),
        "report": lambda: render_report(folder),
    }
    everywhere, wrong, refused = list(ways(content)), [], 0
    try:
        for _ in range(CASES[name]):
            way, value = rng.choice(everywhere), rng.choice(ODD)
            path.write_text(json.dumps(changed(content, way, value)))
            for view, show in views.items():
                try:
                    show()
                except UserError as error:
                    refused += 1
                    if str(path) not in str(error):
                        wrong.append(f"{view}, {way} = {str(value)[:20]!r}: {error} does not name the file")
                except Exception as error:  # whatever comes is what is looked for
                    wrong.append(f"{view}, {way} = {str(value)[:20]!r}: {error!r}"[:300])
    finally:
        path.write_text(text)
        capsys.readouterr()
    assert not wrong, "\n".join(wrong)
    assert refused, "nothing was refused, so nothing was tried"


@pytest.mark.parametrize(
    ("name", "way", "value", "said"),
    [
        ("result.json", ("learned", "count"), "12", "learned.count is '12'"),
        ("result.json", ("forgotten", "held_out", "high"), [], "forgotten.held_out.high is []"),
        ("result.json", ("accuracy", "mastered_test", "paired", "mcnemar_p"), "", "mcnemar_p is ''"),
        ("result.json", ("forgotten", "in_set", "of"), HUGE, "401 digits"),
        ("environment.json", ("versions",), ["torch"], "environment.json"),
    ],
)
def test_file_and_key_are_named(run: Path, name: str, way: Way, value: Any, said: str) -> None:
    path = run / name
    path.write_text(json.dumps(changed(json.loads(path.read_text()), way, value)))
    with pytest.raises(DataError) as caught:
        render_report(run)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_a_line_of_metrics_with_a_number_that_is_none(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "metrics.jsonl"
    before = last_record(path, "train"), len(read_records(path, "train"))
    lines = [
        {"step": 91, "kind": "train", "time": 1.0, "loss_injection": HUGE},
        {"step": HUGE, "kind": "train", "time": 1.0},
        {"step": 91, "kind": "train", "time": HUGE},
    ]
    assert [parse_record(json.dumps(line)) for line in lines] == [None] * 3
    assert parse_record("[" * 100_000) is None
    with open(path, "a") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)
    assert (last_record(path, "train"), len(read_records(path, "train"))) == before
    render_report(run)
    with open(path, "a") as stream:
        stream.write('{"step": 91, "kind": "eval", "time": 1.0, "learned": 1e999, "learned_of": NaN}\n')
    (run / "result.json").unlink()
    print_page(with_resume(find_run("a", run.parent)))
    assert "learned" in capsys.readouterr().out


def test_a_ledger_with_a_part_that_is_none(run: Path) -> None:
    path = run / "flips.parquet"
    table = read_ledger(path)
    other = table.set_column(2, "part", [["elsewhere"] * table.num_rows])
    pq.write_table(other, path)
    with pytest.raises(DataError, match=r"flips\.parquet .*part of 'q\d+' is 'elsewhere'"):
        render_report(run)


def test_an_address_is_no_file(run: Path) -> None:
    from cpl_ray.report import write_report

    with pytest.raises(UserError, match=r"--out: .*is an address"):
        write_report(run, Path("s3://bucket/a.html"))
    assert not (Path.cwd() / "s3:").exists()
