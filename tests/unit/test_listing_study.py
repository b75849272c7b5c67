"""Studies in the list of runs: the state from the page, the lock and the failures; what is known of each."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cpl_ray import lock
from cpl_ray.listing import list_runs
from cpl_ray.lock import hold, release
from cpl_ray.run_details import details_of, find_run
from tests.unit.test_listing import make_run, trained, write


@pytest.fixture(autouse=True)
def _released() -> Iterator[None]:
    yield
    for folder in list(lock._held):
        release(folder)


def make_study(base: Path, **more: Any) -> Path:
    """Return a study that has begun, with a run of its own in which training goes on; it is older than its files."""
    folder = make_run(base, "q")
    (folder / "assessment").mkdir()
    write(folder, "study.json", {"study": "taylor", "state": "running"} | more)
    os.utime(folder / "study.json", (1000.0, 1000.0))
    trained(make_run(folder / "runs", "probed"))
    return folder


def fails(folder: Path) -> None:
    write(folder, "failure-20261122-000000.txt", "out of memory")


def goes_on_after_a_failure(folder: Path) -> None:
    fails(folder)
    os.utime(folder / "failure-20261122-000000.txt", (500.0, 500.0))


def ends_after_a_failure(folder: Path) -> None:
    fails(folder)
    write(folder, "study.json", {"study": "taylor", "state": "finished", "verdict": "It holds.", "headline": {"x": 1}})


@pytest.mark.parametrize(
    ("make", "state"),
    [
        (lambda folder: None, "interrupted"),
        (hold, "running"),
        (fails, "failed"),
        (goes_on_after_a_failure, "interrupted"),
        (ends_after_a_failure, "finished"),
    ],
)
def test_the_state_of_a_study(tmp_path: Path, make: Callable[[Path], Any], state: str) -> None:
    make(make_study(tmp_path))
    (found,) = list_runs(tmp_path)
    assert (found.name, found.kind, found.study, found.state, found.model) == ("q", "study", "taylor", state, "m/base")
    assert (found.ended is None) is (state == "running")


@pytest.mark.parametrize("content", ["{", "[]", '{"study": 3}'])
def test_a_broken_page_makes_a_damaged_study(tmp_path: Path, content: str) -> None:
    (make_study(tmp_path) / "study.json").write_text(content)
    (found,) = list_runs(tmp_path)
    assert (found.kind, found.state) == ("study", "damaged")
    assert details_of(tmp_path / "q") is not None


def test_details_of_a_study(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    begun = find_run("q", tmp_path)
    assert (begun["verdict"], begun["headline"], begun["failure"]) == (None, {}, None)
    assert [(run["name"], run["state"]) for run in begun["runs"]] == [("probed", "trained")]
    ends_after_a_failure(folder)
    ended = find_run("q", tmp_path)
    assert (ended["verdict"], ended["headline"]) == ("It holds.", {"x": 1})
    assert "out of memory" in ended["failure"]["text"]
