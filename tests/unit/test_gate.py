"""The gate: within the budget or not, exactly, and never on numbers that were not measured."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpl_ray.config import BudgetConfig
from cpl_ray.gate import judge


def result(forgotten: tuple[int, int] | None, learned: tuple[int, int] | None) -> dict[str, Any]:
    def rate(pair: tuple[int, int] | None) -> dict[str, Any] | None:
        return None if pair is None else {"count": pair[0], "of": pair[1], "share": 0.123}  # the share is not trusted

    return {"forgotten": {"held_out": rate(forgotten), "in_set": rate((9, 10))}, "learned": rate(learned)}


BUDGET = BudgetConfig(max_forgetting=0.05, min_learned=0.8)


@pytest.mark.parametrize(
    ("forgotten", "learned", "admitted"),
    [
        ((5, 100), (8, 10), True),  # exactly at both limits
        ((0, 1), (1, 1), True),
        ((6, 100), (8, 10), False),
        ((501, 10_000), (10, 10), False),
        ((5, 100), (79, 100), False),
        ((100, 100), (0, 10), False),
    ],
)
def test_limits_are_inclusive_and_exact(forgotten: tuple[int, int], learned: tuple[int, int], admitted: bool) -> None:
    verdict = judge(result(forgotten, learned), BUDGET)
    assert verdict.admitted is admitted
    assert bool(verdict.reasons) is not admitted


def test_reasons_name_the_numbers_and_the_limits() -> None:
    verdict = judge(result((6, 40), (1, 3)), BUDGET)
    assert verdict.reasons == [
        "forgotten held-out 15 % (6 of 40) is above budget.max_forgetting 5 %",
        "learned 33.33 % (1 of 3) is below budget.min_learned 80 %",
    ]
    assert verdict.numbers["forgotten_held_out"] == {"count": 6, "of": 40, "share": 0.15}
    assert verdict.to_dict()["admitted"] is False
    assert verdict.summary().startswith("refused: forgotten held-out")
    assert judge(result((0, 40), (3, 3)), BUDGET).summary().startswith("admitted")


@pytest.mark.parametrize(
    "measured",
    [
        {},
        {"learned": {"count": 1, "of": 1}},
        {"learned": {"count": 1, "of": 1}, "forgotten": None},
        {"learned": {"count": 1, "of": 1}, "forgotten": {"in_set": {"count": 0, "of": 9}}},
        result((0, 0), (1, 1)),
        result(None, (1, 1)),
        {"learned": {"count": 1, "of": 1}, "forgotten": {"held_out": {"count": "0", "of": 5}}},
        {"learned": {"count": 1, "of": 1}, "forgotten": {"held_out": {"count": -1, "of": 5}}},
    ],
)
def test_what_was_not_measured_held_out_is_refused(measured: dict[str, Any]) -> None:
    verdict = judge(measured, BudgetConfig(max_forgetting=1.0, min_learned=0.0))
    assert not verdict.admitted
    assert "held-out" in verdict.reasons[0]


@pytest.mark.parametrize("learned", [None, (0, 0)])
def test_what_was_learned_must_be_measured(learned: tuple[int, int] | None) -> None:
    verdict = judge(result((0, 9), learned), BudgetConfig(min_learned=0.0))
    assert not verdict.admitted
    assert "learned" in verdict.reasons[0]


@given(st.integers(1, 500), st.data(), st.floats(0, 1), st.floats(0, 1))
def test_a_better_model_is_never_refused_where_a_worse_one_is_admitted(
    of: int, data: st.DataObject, most: float, least: float
) -> None:
    budget = BudgetConfig(max_forgetting=most, min_learned=least)
    forgotten, learned = data.draw(st.integers(0, of)), data.draw(st.integers(0, of))
    if judge(result((forgotten, of), (learned, of)), budget).admitted:
        better = result((data.draw(st.integers(0, forgotten)), of), (data.draw(st.integers(learned, of)), of))
        assert judge(better, budget).admitted
