"""The measures of the load tests find what they look for."""

import argparse
import sqlite3
from pathlib import Path

import pytest

from cpl_ray.metrics_log import Record
from tests.load import items, tracking
from tests.load.flat import judged, slope


def test_a_lost_and_a_doubled_point_are_counted() -> None:
    wanted = tracking.expected(20)
    assert wanted.total() == 20 * (tracking.VALUES + 1) + 2 * 2 + 1
    store = sqlite3.connect(":memory:")
    store.execute("CREATE TABLE metrics (run_uuid TEXT, key TEXT, step INTEGER, value REAL)")
    store.executemany("INSERT INTO metrics VALUES ('a', ?, ?, ?)", list(wanted))
    assert tracking.compared(store, "a", wanted) == (0, 0)
    store.execute("DELETE FROM metrics WHERE key = 'train/value_3' AND step = 7")
    store.execute("INSERT INTO metrics VALUES ('a', 'train/step', 5, 5.0)")
    assert tracking.compared(store, "a", wanted) == (1, 1)
    assert tracking.compared(store, "b", wanted) == (wanted.total(), 0)


def test_slope_of_a_line_among_noise() -> None:
    points = [(x, 3.0 * x + 5 + (-1) ** int(x) * 0.5) for x in map(float, range(200))]
    assert slope(points) == pytest.approx(3.0, abs=1e-3)
    assert slope([(1.0, 2.0)]) == 0.0


def test_items_are_counted_and_shown(tmp_path: Path) -> None:
    found = items.run(tmp_path, argparse.Namespace(count=200))
    assert (found["items"], found["faults"]) == (200, [])
    assert found["report_bytes"] > found["ledger_bytes"] > 0


def made(rounds: int, minutes: float, **growth: float) -> list[Record]:
    """Return what a soak writes: first caches fill, then each value grows so much a round, with noise."""
    begin = {"resident_bytes": 600 * 2.0**20, "objects": 2e5, "open_files": 16.0}
    noise = {"resident_bytes": 8192.0, "objects": 3.0}
    records = []
    for step in range(1, rounds + 1):
        values = {"elapsed_s": step * minutes * 60 / rounds}
        for key, at in begin.items():
            wobble = (-1) ** step * noise.get(key, 0.0)
            values[key] = at + growth.get(key, 0.0) * step + wobble + min(step, rounds // 4) * 100.0
        records.append(Record("soak", step, 0.0, values))
    return records


def words(records: list[Record], minutes: float) -> list[str]:
    """Return the first words of what is wrong."""
    return [fault.split(" grow")[0] for fault in judged(records, minutes)["faults"]]


@pytest.mark.parametrize(("minutes", "rounds"), [(3.0, 90), (120.0, 4000)])
def test_flat_soak_is_well_though_caches_filled_first(minutes: float, rounds: int) -> None:
    found = judged(made(rounds, minutes), minutes)
    assert found["faults"] == []
    assert found["open_files"][0] == found["open_files"][1]
    assert found["mib_per_hour"] == pytest.approx(0.0, abs=2.0)


def test_long_soak_is_judged_by_the_hour() -> None:
    """22 MiB an hour over two hours is 11 KiB a round, which a soak of minutes may have."""
    growing = made(4000, 120.0, resident_bytes=22 * 2**20 * 2 / 4000)
    assert judged(growing, 120.0)["kib_per_round"] == pytest.approx(11.3, abs=0.1)
    assert judged(growing, 120.0)["faults"] == ["memory grows by 22.0 MiB an hour, allowed are 20"]
    assert words(made(4000, 120.0, resident_bytes=18 * 2**20 * 2 / 4000), 120.0) == []
    assert words(made(1000, 30.0, resident_bytes=22 * 2**20 / 2000), 30.0) == ["memory"]


def test_short_soak_is_judged_by_the_round() -> None:
    assert words(made(90, 3.0, resident_bytes=60 * 1024.0), 3.0) == []
    assert words(made(90, 3.0, resident_bytes=70 * 1024.0), 3.0) == ["memory"]


@pytest.mark.parametrize(("minutes", "rounds"), [(3.0, 90), (120.0, 4000)])
def test_objects_and_open_files_that_stay_are_found(minutes: float, rounds: int) -> None:
    assert words(made(rounds, minutes, objects=1.0), minutes) == ["objects"]
    assert words(made(rounds, minutes, open_files=0.1), minutes) == ["open files"]
    assert words(made(rounds, minutes, objects=5.0, open_files=1.0), minutes) == ["objects", "open files"]


def test_soak_of_few_rounds_says_nothing() -> None:
    (fault,) = judged(made(3, 0.1), 0.1)["faults"]
    assert fault == "only 3 rounds in 0.1 minutes: give it more"
