"""The study `mastered-size`: its grid, its choice by M validation, freshness at equal cost."""

from pathlib import Path
from typing import Any

import pytest

from cpl_ray.figures_mastered_size import draw_mastered_size
from cpl_ray.measures import Rate
from cpl_ray.studies.mastered_size import Point, analyse, equal_cost, grid, row_of, sizes_of, smallest_inside


def result(held_out: int, validation: int, *, reached: bool = True, learned: int = 9) -> dict[str, Any]:
    parts = {"held_out": (held_out, 100), "validation": (validation, 50), "in_set": (0, 10)}
    return {
        "stopped_at_learned": reached,
        "steps": 30,
        "learned": {"count": learned, "of": 10},
        "forgotten": {name: Rate(*pair).to_dict() for name, pair in parts.items()},
    }


def fates(count: int) -> dict[str, bool]:
    return {str(index): index < count for index in range(100)}


def test_sizes_and_grid() -> None:
    assert sizes_of([], 100) == [12, 25, 50, 100]
    assert sizes_of([], 2) == [1, 2]
    assert sizes_of([8, 4], 100) == [4, 8]
    points = grid([8, 32], [16, 64], [1, "epoch"])
    # batches beyond |M| are |M|, and a pass over all knows no batch: what means the same stands there once
    assert [point.name for point in points] == [
        "m8-b8-r1",
        "m8-b8-repoch",
        "m32-b16-r1",
        "m32-b32-r1",
        "m32-b32-repoch",
    ]
    assert Point(32, 16, 4).items_per_update(5) == 4.0
    assert Point(32, 32, "epoch").items_per_update(5) == 6.4
    assert Point(32, 16, 4).changes()["train.mastered_batch_size"] == 16


def test_the_smallest_set_is_chosen_by_validation_never_by_test() -> None:
    rows = [
        row_of(Point(8, 8, 1), result(2, 3), 1),  # inside by M test, outside by M validation (3 of 50 > 5 %)
        row_of(Point(16, 16, 4), result(1, 2), 1),
        row_of(Point(16, 16, 1), result(9, 1), 1),  # least forgotten of M validation among those of this size
        row_of(Point(32, 16, 1), result(0, 0), 1),
    ]
    best = smallest_inside(rows, 0.05)
    assert best is not None
    assert best["point"] == "m16-b16-r1"
    assert smallest_inside(rows[:1], 0.05) is None
    found = analyse(rows, {row["point"]: fates(row["forgotten_held_out"]) for row in rows}, budget=0.05, target=0.9)
    assert (found.headline["smallest_size"], found.headline["smallest_forgotten"]) == (16, 0.09)
    assert (
        "The smallest mastered set inside 5.0 % forgetting, by M validation, is |M| 16 (batch 16, refresh 1): 1 of 50 "
        "there. Of M test it forgot 9 of 100 [4.2 %, 16.4 %], outside of the budget, having learned 9 of 10."
        in found.verdict
    )
    assert "over batches and refreshes: |M| 8 2.0 % and |M| 32 0.0 %." in found.verdict
    assert "freshness at equal cost was not measured" in found.verdict


def test_freshness_is_compared_at_equal_cost_only() -> None:
    fresh, stale, dear = Point(64, 16, 1), Point(64, 64, 4), Point(64, 64, 1)
    counts = {fresh: 1, stale: 12, dear: 0}
    rows = [row_of(point, result(count, 0), 10) for point, count in counts.items()]
    forgotten = {point.name: fates(count) for point, count in counts.items()}
    pairs = list(equal_cost(list(reversed(rows)), forgotten))
    assert [(a["point"], b["point"], t.only_first, t.only_second) for a, b, t in pairs] == [
        ("m64-b16-r1", "m64-b64-r4", 0, 11)
    ]
    found = analyse(rows, forgotten, budget=0.05, target=None)
    assert "forgot 1 and large stale ones 12 of 100 in M test, exact McNemar p 0.00098: fresh small" in found.verdict
    even = {name: fates(1) for name in forgotten}
    assert "no effect of freshness is shown" in analyse(rows, even, budget=0.05, target=None).verdict


@pytest.mark.parametrize(
    ("held_out", "words"),
    [
        (0, "[0.0 %, 3.6 %], inside the budget with its whole interval"),
        (3, "inside the budget, though its interval is"),
    ],
)
def test_intervals_are_held_against_the_budget(held_out: int, words: str) -> None:
    rows = [row_of(Point(8, 8, 1), result(held_out, 0), 1)]
    assert words in analyse(rows, {}, budget=0.05, target=None).verdict


def test_what_misses_the_target_is_not_judged() -> None:
    rows = [row_of(Point(8, 8, 1), result(0, 0, reached=False), 1), row_of(Point(16, 16, 1), result(40, 20), 1)]
    found = analyse(rows, {}, budget=0.05, target=0.9)
    assert found.headline["smallest_size"] is None
    assert (
        "No mastered set stays inside 5.0 % forgetting of M validation; least is 20 of 50 with |M| 16" in found.verdict
    )
    assert "1 of 2 runs missed the learned target and are not judged" in found.verdict
    assert "No run reached the learned target" in analyse(rows[:1], {}, budget=0.05, target=0.9).verdict


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    points = grid([8, 64], [16, 64], [1, 4, "epoch"])
    rows = [row_of(point, result(index, 0), 4) for index, point in enumerate(points)]
    found = analyse(rows, {point.name: fates(1) for point in points}, budget=0.05, target=None)
    (path,) = draw_mastered_size(found, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")
