"""The measures of the load tests find what they look for."""

import argparse
import sqlite3
from pathlib import Path

import pytest

from tests.load import items, tracking
from tests.load.soak import slope


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
