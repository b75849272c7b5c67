"""From scores and texts to verdicts: properties, then values."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpl_ray.items import Item
from cpl_ray.judging import answers, decided, judge_choices, reordered

TEXT = st.text(alphabet=" .,ab1é\u0301\n-", max_size=8)
TARGET = TEXT.filter(lambda text: text.strip() != "")


def choices(num: int, answer: int = 0, item_id: str = "q") -> Item:
    options = tuple(f"option {index}" for index in range(num))
    return Item(item_id, "multiple_choice", "which?", options, answer, options[answer])


@pytest.mark.parametrize(
    ("text", "target", "right", "right_strict"),
    [
        (" Paris", "Paris", True, True),
        (" Paris\n", " Paris ", True, True),
        ("Paris.", "Paris", True, False),
        ("Paris, the capital", "Paris", True, False),
        ("Paris\nQuestion: next", "Paris", True, False),
        ("Parisian", "Paris", False, False),
        ("The answer is Paris", "Paris", False, False),
        ("paris", "Paris", False, False),
        ("3", "3", True, True),
        ("3.14", "3", False, False),
        ("3,000", "3", False, False),
        ("3.", "3", True, False),
        ("3. Next", "3", True, False),
        ("31", "3", False, False),
        ("New York", "New York City", False, False),
        ("", "x", False, False),
        ("cafe\u0301", "caf\u00e9", True, True),
        ("cafe\u0301", "cafe", False, False),
        ("中国", "中", False, False),
    ],
)
def test_generated_text_gives_the_target(text: str, target: str, right: bool, right_strict: bool) -> None:
    assert answers(text, target, strict=False) is right
    assert answers(text, target, strict=True) is right_strict


@given(text=TEXT, more=TEXT, target=TARGET, strict=st.booleans())
def test_what_is_decided_stays(text: str, more: str, target: str, strict: bool) -> None:
    if decided(text, target, strict=strict):
        assert answers(text + more, target, strict=strict) == answers(text, target, strict=strict)


@given(target=TARGET, strict=st.booleans())
def test_a_wrong_beginning_is_decided_at_once(target: str, strict: bool) -> None:
    assert decided("zz", target, strict=strict)


@given(num=st.integers(2, 5), count=st.integers(0, 130), seed=st.integers(0, 9), answer=st.integers(0, 4))
def test_reordered_items_are_distinct_and_keep_the_right_answer(num: int, count: int, seed: int, answer: int) -> None:
    item = choices(num, answer % num)
    variants = reordered(item, count, seed)
    assert len(variants) == min(count, math.factorial(num) - 1)
    assert len({variant.choices for variant in variants} | {item.choices}) == len(variants) + 1
    for variant in variants:
        assert variant.answer is not None
        assert variant.choices[variant.answer] == item.target
        assert sorted(variant.choices) == sorted(item.choices)
        assert variant.id == item.id
    # the first orders put the right answer under letters it did not have before
    assert len({variant.answer for variant in variants[: num - 1]} | {item.answer}) == min(len(variants), num - 1) + 1


def test_orders_depend_on_seed_and_item_only() -> None:
    assert reordered(choices(4), 3, 0) == reordered(choices(4), 3, 0)
    orders = {tuple(v.choices for v in reordered(choices(4, item_id=f"q{i}"), 3, s)) for i in range(8) for s in (0, 1)}
    assert len(orders) > 4


def test_items_without_choices_have_no_other_order() -> None:
    assert reordered(Item("q", "completion", prompt="a", target="b"), 3, 0) == []


@pytest.mark.parametrize(
    ("name", "scores", "correct", "prediction", "margin"),
    [
        ("letter_logit", [2.0, 1.0, -3.0], True, "A", 1.0),
        ("letter_logit", [1.0, 2.0, -3.0], False, "B", -1.0),
        ("choice_loglik", [-1.0, -2.0, -0.5], False, "option 2", -0.5),
        ("choice_loglik", [-1.0, -1.0, -2.0], True, "option 0", 0.0),
        ("choice_loglik_norm", [-8.0, -16.0, -24.0], True, "option 0", 1.0),
    ],
)
def test_values(name: str, scores: list[float], correct: bool, prediction: str, margin: float) -> None:
    verdict = judge_choices(choices(3), scores, None, name)
    assert (verdict.correct, verdict.prediction, verdict.margin) == (correct, prediction, margin)
    assert verdict.error is None


def test_norm_divides_by_characters() -> None:
    item = Item("q", "multiple_choice", "?", ("aé", "bbbbbbbb"), 1, "bbbbbbbb")
    verdict = judge_choices(item, [-2.0, -4.0], None, "choice_loglik_norm")
    assert verdict.scores == (-1.0, -0.5)
    assert verdict.correct


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_scores_are_an_error(bad: float) -> None:
    verdict = judge_choices(choices(3), [0.0, bad, 1.0], None, "choice_loglik")
    assert verdict.error == "non-finite scores"
    assert not verdict.correct
    assert math.isnan(verdict.margin)
