"""The choice among trials: Pareto front, knee and smallest mastered set, against brute force and by hand."""

import csv
import io
import random
from typing import Any

import pytest

from cpl_ray.choice import by_size, choose, pareto_front, smallest_inside, summarise_points
from cpl_ray.config_run import BudgetConfig
from cpl_ray.measures import Rate
from cpl_ray.trials import Trial, as_csv

BUDGET = BudgetConfig(max_forgetting=0.05, min_learned=0.8)


def trial(
    index: int,
    learned: int,
    validation: int,
    *,
    point: int | None = None,
    held_out: int = 0,
    size: int = 100,
    **more: Any,
) -> Trial:
    forgotten = {"validation": Rate(validation, 100), "held_out": Rate(held_out, 200), "in_set": Rate(0, size)}
    number = index if point is None else point
    settings = {"optimizer.lr": 1e-4 * (number + 1), "train.mastered_size": size}
    values = {"state": "finished", "mastered_size": size, "mastered_sha256": f"{size:064d}", **more}
    return Trial(index, number, settings, 0, learned=Rate(learned, 100), forgotten=forgotten, **values)


def test_pareto_front_is_what_nothing_beats() -> None:
    rng = random.Random(0)
    for _ in range(50):
        points = summarise_points([trial(n, rng.randrange(20), rng.randrange(20)) for n in range(12)])
        front = pareto_front(points)
        for one in points:
            better = [
                other
                for other in points
                if other.learned.count >= one.learned.count
                and other.forgotten["validation"].count <= one.forgotten["validation"].count
                and (other.learned.count, other.forgotten["validation"].count)
                != (one.learned.count, one.forgotten["validation"].count)
            ]
            assert (one in front) == (not better)


def test_the_choice_never_looks_at_m_test() -> None:
    rng = random.Random(1)
    for _ in range(30):
        seen = [(rng.randrange(80, 101), rng.randrange(8)) for _ in range(8)]
        chosen = {
            one.point_id if one else None
            for held_out in range(3)
            for one, _ in [
                choose(
                    summarise_points(
                        [trial(n, *counts, held_out=(n * 7 * held_out) % 200) for n, counts in enumerate(seen)]
                    ),
                    BUDGET,
                )
            ]
        }
        assert len(chosen) == 1


def test_the_knee_by_hand() -> None:
    # learned, forgotten of 100: the line from (80, 0) to (100, 5); (98, 1) lies far above it, (90, 4) below
    points = summarise_points([trial(0, 80, 0), trial(1, 98, 1), trial(2, 90, 4), trial(3, 100, 5), trial(4, 100, 9)])
    best, reason = choose(points, BUDGET)
    assert best is not None
    assert best.point_id == 1
    assert reason.startswith("the knee of the 3 points of the Pareto front inside the budget: learned 98 of 100")


def test_without_a_knee_the_least_forgetting() -> None:
    best, reason = choose(summarise_points([trial(0, 90, 1), trial(1, 95, 3)]), BUDGET)
    assert best is not None
    assert best.point_id == 0
    assert reason.startswith("the least forgetting")


@pytest.mark.parametrize(("learned", "forgotten"), [(79, 0), (100, 6)])
def test_nothing_inside_the_budget(learned: int, forgotten: int) -> None:
    best, reason = choose(summarise_points([trial(0, learned, forgotten)]), BUDGET)
    assert best is None
    assert "no point is inside the budget" in reason
    assert f"learned {learned} of 100" in reason


def test_no_points() -> None:
    assert choose([], BUDGET) == (None, "no point has finished")


def test_points_pool_their_seeds_and_wait_for_all_of_them() -> None:
    both = [trial(0, 90, 2, point=0), trial(1, 80, 6, point=0), trial(2, 99, 0, point=1)]
    unfinished = trial(3, 99, 0, point=1, state="running")
    (one,) = summarise_points([*both, unfinished])
    assert one.learned == Rate(170, 200)
    assert one.forgotten["validation"] == Rate(8, 200)
    saved = one.to_dict(pareto=True)
    assert saved["spread"]["learned"] == [0.8, 0.9]
    assert saved["spread"]["forgotten_validation"] == [0.02, 0.06]
    assert saved["trials"] == [0, 1]


def test_the_smallest_mastered_set_inside_the_budget() -> None:
    trials = [
        trial(0, 95, 20, size=50),
        trial(1, 95, 9, size=100),
        trial(2, 70, 1, size=100),  # forgets little because it learned too little: not inside
        trial(3, 95, 4, size=200, held_out=6),
        trial(4, 95, 3, size=200, held_out=7),
        trial(5, 95, 0, size=400),
    ]
    sizes = by_size(summarise_points(trials), BUDGET)
    assert [(one.mastered_size, one.point_id) for one in sizes] == [(50, 0), (100, 1), (200, 4), (400, 5)]
    found = smallest_inside(sizes, BUDGET)
    assert found is not None
    assert (found["mastered_size"], found["point_id"]) == (200, 4)
    assert "held-out 7 of 200 (3.5 %), 95 % interval 1.4–7.1 %" in found["text"]
    assert found["text"].endswith("the upper end of the interval is above 5 %")
    assert smallest_inside(sizes[:2], BUDGET) is None


def test_trials_survive_the_file() -> None:
    for one in (trial(0, 90, 2), trial(1, 0, 0, state="failed", error="NaN"), Trial(2, 2, {"optimizer.lr": 1e-3}, 5)):
        back = Trial.from_dict(one.to_dict())
        assert (back.index, back.state, back.point, back.seed, back.error) == (
            one.index,
            one.state,
            one.point,
            one.seed,
            one.error,
        )
        if one.state == "finished":
            assert back == one


def test_the_table_of_trials() -> None:
    failed = Trial(1, 1, {"train.refresh": "epoch"}, 5, state="failed", error='NonFiniteError: "loss", is nan')
    rows = list(csv.DictReader(io.StringIO(as_csv([trial(0, 90, 2, held_out=3), failed]))))
    assert [row["trial"] for row in rows] == ["0", "1"]
    assert (rows[0]["optimizer.lr"], rows[0]["learned"], rows[0]["forgotten_held_out"]) == ("0.0001", "90", "3")
    assert (rows[0]["forgotten_held_out_of"], rows[0]["train.refresh"]) == ("200", "")
    assert (rows[1]["state"], rows[1]["learned"], rows[1]["error"]) == ("failed", "", 'NonFiniteError: "loss", is nan')
