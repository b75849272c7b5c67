"""The study `consumption`: trends by hand, equal windows, words that follow the numbers."""

from pathlib import Path
from typing import Any

import pytest

from cpl_ray.figures_consumption import draw_consumption
from cpl_ray.studies.consumption import analyse, trend, updates_to_learn, with_shares


def test_a_trend_by_hand() -> None:
    # (1, 6), (2, 5), (3, 1): slope -2.5, residuals -0.5, 1, -0.5, so s^2 = 1.5 and the slope's error sqrt(1.5 / 2)
    found = trend([6.0, 5.0, 1.0])
    reach = 12.706205 * 0.75**0.5  # t(0.975) with one degree of freedom
    assert found.slope == pytest.approx(-2.5)
    assert (found.low, found.high) == (pytest.approx(-2.5 - reach), pytest.approx(-2.5 + reach))
    assert found.tau == pytest.approx(-1.0)
    assert found.p_value == pytest.approx(2 / 6)  # two of the six orders are as extreme
    assert trend([1.0, 2.0, 3.0, 4.0]).p_value == pytest.approx(2 / 24)


def test_two_rounds_have_no_interval_and_equal_ones_no_trend() -> None:
    two = trend([0.5, 0.4])
    assert (two.slope, two.low, two.high) == (pytest.approx(-0.1), None, None)
    equal = trend([0.5, 0.5, 0.5])
    assert (equal.slope, equal.tau, equal.p_value) == (0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="two rounds; got 1"):
        trend([0.5])


def test_updates_to_learn_is_the_first_evaluation_that_reaches_the_target() -> None:
    evaluations = [(0, 0.0), (5, 0.6), (10, 0.95), (15, 0.9)]
    assert updates_to_learn(evaluations, 0.95) == 10
    assert updates_to_learn(evaluations, 0.96) is None


def rounds(shares: list[list[float]], forgotten: list[int]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    table = [
        {
            "round": number,
            "injected": 10,
            "mastered": 100 + 10 * (number - 1),
            "updates": len(own),
            "train_s": 2.0,
            "updates_to_learn": len(own) if number > 1 else None,
            "learned": 10,
            "learned_of": 10,
            "forgotten": lost,
            "forgotten_of": 50,
            "survived": 9 * (number - 1),
            "survived_of": 10 * (number - 1),
        }
        for number, (own, lost) in enumerate(zip(shares, forgotten, strict=True), start=1)
    ]
    updates = [
        {
            "round": number,
            "step": step,
            "collaborative_share": share,
            "conflict_share": 1 - share,
            "zero_share": share / 8,
        }
        for number, own in enumerate(shares, start=1)
        for step, share in enumerate(own, start=1)
    ]
    return table, updates


def test_rounds_are_compared_over_equally_many_updates() -> None:
    table, updates = rounds([[0.6, 0.5], [0.5, 0.4, 0.1]], [0, 1])
    first, second = with_shares(table, updates[::-1])
    assert (first["window"], first["share_window"], first["share_mean"]) == (2, 0.55, 0.55)
    assert (second["share_window"], second["share_mean"]) == (pytest.approx(0.45), pytest.approx(1 / 3))
    assert (second["share_first"], second["share_last"]) == (0.5, 0.1)
    assert second["zero_window"] == pytest.approx(0.45 / 8)


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ([[0.60, 0.58], [0.55, 0.53], [0.50, 0.48], [0.46, 0.44]], "the share falls from round to round"),
        ([[0.40, 0.38], [0.45, 0.43], [0.50, 0.48], [0.56, 0.54]], "the share rises from round to round"),
        ([[0.50, 0.48], [0.45, 0.43], [0.50, 0.48], [0.46, 0.44]], "is not shown by these rounds"),
    ],
)
def test_the_verdict_says_what_the_numbers_say(shares: list[list[float]], words: str, tmp_path: Path) -> None:
    found = analyse(*rounds(shares, [0, 1, 2, 6]), target=0.95, keep_learned=True)
    assert words in found.verdict
    assert "M train grew from 100 to 130 items" in found.verdict
    assert "at the last on average, -2.00 points" in found.verdict
    assert "Updates until 95.0 % of a part were learned: never, 2, 2, 2" in found.verdict
    assert "27 of 30 (90.0 %) of the earlier parts are right" in found.verdict
    assert "0, 1, 2, 6 are forgotten after each round, 12.0 % [4.5 %, 24.3 %] at the end" in found.verdict
    assert "a further round costs +4.00 points" in found.verdict
    (path,) = draw_consumption(found, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_two_rounds_tell_no_trend() -> None:
    found = analyse(*rounds([[0.6], [0.5]], [0, 1]), target=0.95, keep_learned=False)
    assert "two rounds give no interval, so whether the share falls cannot be told" in found.verdict
    assert found.headline["slope_low"] is None
