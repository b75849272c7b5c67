"""Rates, exact intervals and paired tests against scipy, textbook values and their own laws."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from cpl_ray.errors import DataError
from cpl_ray.measures import Rate, TwoByTwo, forgetting_reduction, mcnemar_exact, two_by_two

rates = st.integers(1, 400).flatmap(lambda of: st.builds(Rate, st.integers(0, of), st.just(of)))


@given(rates, st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99]))
def test_interval_is_clopper_pearson_as_scipy_has_it(rate: Rate, level: float) -> None:
    wanted = binomtest(rate.count, rate.of).proportion_ci(confidence_level=level, method="exact")
    assert rate.interval(level) == pytest.approx((wanted.low, wanted.high), abs=1e-9)


@given(rates)
def test_interval_contains_the_share_and_narrows_with_the_level(rate: Rate) -> None:
    wide, narrow = rate.interval(0.99), rate.interval(0.8)
    assert wide is not None
    assert narrow is not None
    assert rate.share is not None
    assert 0.0 <= wide[0] <= narrow[0] <= rate.share <= narrow[1] <= wide[1] <= 1.0


@given(rates)
def test_interval_mirrors(rate: Rate) -> None:
    low, high = rate.interval() or (0.0, 0.0)
    mirrored = Rate(rate.of - rate.count, rate.of).interval() or (0.0, 0.0)
    assert mirrored == pytest.approx((1.0 - high, 1.0 - low), abs=1e-9)


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [
        (0, 10, 0.0, 0.3085),  # 1 - 0.025**(1/10)
        (10, 10, 0.6915, 1.0),
        (5, 10, 0.1871, 0.8129),
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 5 (Clopper-Pearson)
        (81, 263, 0.2527, 0.3676),
        (15, 148, 0.0578, 0.1617),
        (0, 20, 0.0, 0.1684),
        (1, 29, 0.0009, 0.1776),
    ],
)
def test_interval_pinned(count: int, of: int, low: float, high: float) -> None:
    assert Rate(count, of).interval() == pytest.approx((low, high), abs=6e-5)


def test_a_rate_of_nothing_says_so_instead_of_dividing() -> None:
    assert Rate(0, 0).to_dict() == {"count": 0, "of": 0, "share": None, "low": None, "high": None}
    assert Rate(0, 0).interval() is None


@pytest.mark.parametrize(("count", "of"), [(-1, 3), (4, 3), (1, 0)])
def test_impossible_counts_are_refused(count: int, of: int) -> None:
    with pytest.raises(ValueError, match=f"count {count} of {of}"):
        Rate(count, of)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_a_level_is_a_probability(level: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Rate(1, 2).interval(level)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_exact_binomial_test(only_first: int, only_second: int) -> None:
    pairs = only_first + only_second
    wanted = binomtest(min(only_first, only_second), pairs, 0.5).pvalue if pairs else 1.0
    assert mcnemar_exact(only_first, only_second) == pytest.approx(wanted, rel=1e-9, abs=1e-15)
    assert mcnemar_exact(only_first, only_second) == mcnemar_exact(only_second, only_first)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        (0, 0, 1.0),
        (3, 3, 1.0),
        (0, 5, 0.0625),  # 2 / 2**5
        (0, 6, 0.03125),
        (2, 10, 158 / 4096),  # 2 * (1 + 12 + 66) / 2**12
        (6, 16, 0.05248),  # textbook: 2 * P(X <= 6), X ~ Bin(22, 1/2)
    ],
)
def test_mcnemar_pinned(only_first: int, only_second: int, p: float) -> None:
    assert mcnemar_exact(only_first, only_second) == pytest.approx(p, abs=1e-5)


def test_mcnemar_refuses_negative_counts() -> None:
    with pytest.raises(ValueError, match="negative"):
        mcnemar_exact(-1, 2)


@given(st.dictionaries(st.text(max_size=4), st.tuples(st.booleans(), st.booleans())))
def test_two_by_two_counts_every_item_once(pairs: dict[str, tuple[bool, bool]]) -> None:
    table = two_by_two({key: first for key, (first, _) in pairs.items()}, {key: pair[1] for key, pair in pairs.items()})
    assert table.of == len(pairs)
    assert table.first == Rate(sum(first for first, _ in pairs.values()), len(pairs))
    assert table.second == Rate(sum(second for _, second in pairs.values()), len(pairs))
    assert table.both == sum(first and second for first, second in pairs.values())
    assert table.p_value == mcnemar_exact(table.only_first, table.only_second)


def test_two_by_two_does_not_depend_on_order() -> None:
    table = two_by_two({"a": True, "b": True, "c": False}, {"c": True, "b": False, "a": True})
    assert table == TwoByTwo(both=1, only_first=1, only_second=1, neither=0)
    assert table.to_dict() == {"both": 1, "only_first": 1, "only_second": 1, "neither": 0, "mcnemar_p": 1.0}


def test_unpaired_results_are_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"2 items are in only one .* 'a'"):
        two_by_two({"a": True, "b": True}, {"b": True, "c": True})


def test_forgetting_reduction() -> None:
    assert forgetting_reduction(Rate(5, 100), Rate(20, 100)) == pytest.approx(0.75)
    assert forgetting_reduction(Rate(0, 50), Rate(1, 100)) == 1.0
    assert forgetting_reduction(Rate(4, 10), Rate(2, 10)) == -1.0
    assert forgetting_reduction(Rate(0, 100), Rate(0, 100)) is None
    assert forgetting_reduction(Rate(0, 0), Rate(1, 2)) is None
