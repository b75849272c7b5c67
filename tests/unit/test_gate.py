"""The gate: within the budget or not, no worse than the champion, and never on numbers that were not measured."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpl_ray.config import BudgetConfig
from cpl_ray.digest import items_digest
from cpl_ray.errors import DataError
from cpl_ray.evidence import Comparison, Noise, changed, rightness
from cpl_ray.gate import judge
from cpl_ray.items import Item
from cpl_ray.judging import failed
from cpl_ray.measures import Rate, TwoByTwo


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


GOOD = result((2, 100), (9, 10))


def against(only_candidate: int, only_champion: int, both: int = 80, **about: Any) -> Comparison:
    return Comparison("7", TwoByTwo(both, only_candidate, only_champion, 3), **about)


def floor(mastered: int, injection: int = 0, of: int = 100) -> Noise:
    """A floor is the most that any way of asking changed."""
    return Noise(
        {"batch_size_1": Rate(mastered, of), "permuted_options": Rate(mastered // 2, of)},
        {"batch_size_1": Rate(injection, 10)},
    )


@pytest.mark.parametrize(
    ("only_candidate", "only_champion", "p", "admitted"),
    [
        (0, 0, 1.0, True),
        (0, 5, 0.0625, True),  # 2 / 2^5
        (0, 6, 0.03125, False),  # 2 / 2^6: the fewest pairs that can say anything at 0.05
        (1, 8, 20 / 512, False),  # 2 (1 + 9) / 2^9
        (1, 7, 18 / 256, True),
        (6, 0, 0.03125, True),  # significantly better
        (20, 30, 0.2026388, True),
        (30, 30, 1.0, True),
        (3, 15, 2 * (1 + 18 + 153 + 816) / 2**18, False),
    ],
)
def test_exact_paired_test_against_the_champion(
    only_candidate: int, only_champion: int, p: float, admitted: bool
) -> None:
    verdict = judge(GOOD, BUDGET, against(only_candidate, only_champion))
    assert verdict.numbers["champion"]["mcnemar_p"] == pytest.approx(p, rel=1e-5)
    assert verdict.admitted is admitted
    assert verdict.worse_than_champion is not admitted
    if not admitted:
        assert f"only the champion {only_champion}, only this one {only_candidate}" in verdict.reasons[0]
    assert json.loads(json.dumps(verdict.to_dict()))["numbers"]["champion"]["only_champion"] == only_champion


def test_what_is_left_undecided_is_said() -> None:
    worse = against(0, 8)
    assert not judge(GOOD, BUDGET, worse, floor(7)).admitted
    within_noise = judge(GOOD, BUDGET, worse, floor(8))
    assert within_noise.admitted
    assert "not counted" in within_noise.warnings[-1]
    from_it = judge(GOOD, BUDGET, replace(worse, champion_is_base=True), floor(0))
    assert from_it.admitted
    assert "trained from that champion" in from_it.warnings[0]
    assert "another M test" in judge(GOOD, BUDGET, against(1, 1, same_test_set=False)).warnings[0]
    assert judge(GOOD, BUDGET, against(1, 1, same_test_set=True)).warnings == []
    assert judge(GOOD, BudgetConfig(alpha=0.0), against(0, 80)).admitted
    both = judge(result((6, 40), (1, 3)), BUDGET, worse)
    assert len(both.reasons) == 3


@pytest.mark.parametrize(
    ("forgotten", "learned", "noise", "close"),
    [
        ((5, 100), (10, 10), floor(0), []),  # exactly at the limit, but nothing wavers
        ((5, 100), (10, 10), floor(1), ["forgotten"]),
        ((4, 100), (10, 10), floor(1), []),
        ((4, 100), (10, 10), floor(2), ["forgotten"]),
        ((6, 100), (10, 10), floor(1), ["forgotten"]),  # refused, and might have been admitted
        ((7, 100), (10, 10), floor(1), []),
        ((0, 100), (8, 10), floor(0, 1), ["learned"]),
        ((0, 100), (9, 10), floor(0, 1), []),
        ((0, 100), (7, 10), floor(0, 1), ["learned"]),
        ((5, 100), (8, 10), floor(1, 1), ["forgotten", "learned"]),
        ((99, 100), (0, 10), floor(100, 10), ["forgotten", "learned"]),
    ],
)
def test_close_calls(forgotten: tuple[int, int], learned: tuple[int, int], noise: Noise, close: list[str]) -> None:
    verdict = judge(result(forgotten, learned), BUDGET, noise=noise)
    assert verdict.close_call is bool(close)
    assert [warning.removeprefix("close call: ").split()[0] for warning in verdict.warnings] == close
    assert verdict.admitted is judge(result(forgotten, learned), BUDGET).admitted  # a warning, no reason
    assert ("a close call" in verdict.summary()) is bool(close)


CELLS = st.tuples(*[st.integers(0, 40)] * 4)


@given(CELLS, st.integers(0, 20), st.floats(0, 1), st.data())
def test_answering_more_never_turns_admitted_into_refused(
    cells: tuple[int, int, int, int], noise: int, alpha: float, data: st.DataObject
) -> None:
    budget = BudgetConfig(max_forgetting=1.0, min_learned=0.0, alpha=alpha)
    both, only_candidate, only_champion, neither = cells
    if not judge(GOOD, budget, Comparison("1", TwoByTwo(*cells)), floor(noise)).admitted:
        return
    regained, gained = data.draw(st.integers(0, only_champion)), data.draw(st.integers(0, neither))
    better = TwoByTwo(both + regained, only_candidate + gained, only_champion - regained, neither - gained)
    assert judge(GOOD, budget, Comparison("1", better), floor(noise)).admitted
    assert judge(GOOD, budget, Comparison("1", better), floor(noise + 1)).admitted
    assert judge(GOOD, budget).admitted


@given(CELLS, st.floats(0, 1))
def test_a_champion_that_is_no_better_refuses_nobody(cells: tuple[int, int, int, int], alpha: float) -> None:
    both, one, other, neither = cells
    table = TwoByTwo(both, max(one, other), min(one, other), neither)
    assert judge(GOOD, BudgetConfig(max_forgetting=0.05, min_learned=0.8, alpha=alpha), Comparison("1", table)).admitted


def test_noise_counts_changed_verdicts() -> None:
    usual = {"a": True, "b": False, "c": True}
    assert changed(usual, {"a": True, "b": True}) == Rate(1, 2)
    assert changed(usual, {}) == Rate(0, 0)
    with pytest.raises(DataError, match="'d'"):
        changed(usual, {"d": True})
    assert rightness([failed("x", "too long")]) == {"x": False}
    noise = Noise({"batch_size_1": Rate(1, 9), "permuted_options": Rate(3, 4)})
    assert (noise.mastered_floor, noise.injection_floor) == (3, 0)
    assert noise.to_dict()["floor"] == {"mastered_test": 3, "injection_train": 0}
    said = judge(GOOD, BUDGET, noise=noise)
    assert said.numbers["noise"]["mastered_test"]["permuted_options"] == {"changed": 3, "of": 4}
    assert "permuted_options 3 of 4" in said.details()[-1]


def test_a_test_set_is_known_by_its_items() -> None:
    items = [Item("a", "cloze", cloze="x", target="y"), Item("b", "cloze", cloze="z", target="y")]
    assert items_digest(items) == items_digest(items[::-1])
    joined = "\n".join(sorted(item.to_json() for item in items))
    assert items_digest(items) == hashlib.sha256(joined.encode("utf-8")).hexdigest()
    assert items_digest(items) != items_digest(items[:1])
