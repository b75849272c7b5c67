"""The model that is kept inside a forgetting budget: which evaluation, and what a changed budget means for a resume."""

import pytest

from cpl_ray.config import Config
from cpl_ray.errors import ResumeError
from cpl_ray.inside_budget import learns_more_inside
from cpl_ray.resume import check_same_job


def record(learned: int, forgotten: int, of: int = 40) -> dict[str, float]:
    return {"learned": learned, "learned_of": 10, "forgotten_validation": forgotten, "forgotten_validation_of": of}


def test_the_first_of_those_that_learned_most_inside() -> None:
    best: dict[str, float] = {}
    kept = []
    # untrained, inside, the same again, worse, at the very limit, more but outside, back inside with more
    evaluations = [(0, 0), (3, 1), (3, 0), (2, 0), (5, 2), (9, 3), (6, 2)]
    for step, (learned, forgotten) in enumerate(evaluations):
        if learns_more_inside(record(learned, forgotten), best, max_forgetting=0.05):
            best = record(learned, forgotten)
            kept.append(step)
    assert kept == [1, 4, 6]


def test_nothing_is_inside_where_nothing_can_be_judged() -> None:
    assert not learns_more_inside(record(5, 0, of=0), {}, max_forgetting=1.0)
    assert learns_more_inside(record(5, 40), {}, max_forgetting=1.0)


def test_a_resumed_run_keeps_the_budget_that_its_kept_model_follows_from() -> None:
    def run(limit: float, keep: bool) -> Config:
        tree = {"model": "m", "train": {"keep_inside_budget": keep}, "budget": {"max_forgetting": limit}}
        return Config.model_validate(tree)

    check_same_job(run(0.05, False), run(0.01, False))
    with pytest.raises(ResumeError, match=r"budget\.max_forgetting was 0\.05, now 0\.01"):
        check_same_job(run(0.05, True), run(0.01, True))
