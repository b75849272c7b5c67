"""Token F1: the values of SQuAD and MLQA, the scripts of the world, and what no spelling may change."""

import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpl_ray.token_overlap import answer_tokens, best_f1, token_f1

TEXT = st.text(alphabet="abé thean.,北京ไทยนี้हिन्दी한국🍎\u200f\n ", max_size=14)


@pytest.mark.parametrize(
    ("given_text", "target", "f1"),
    [
        ("the Denver Broncos", "Denver Broncos", 1.0),
        ("Broncos", "Denver Broncos", 2 / 3),
        ("Denver Broncos won in 2016", "Denver Broncos", 4 / 7),
        ("denver, denver", "Denver", 2 / 3),
        ("Paris", "Rome", 0.0),
        ("U.S.A.", "USA", 1.0),
        ("", "Rome", 0.0),
        ("A", "A", 1.0),
        ("the", "A", 0.0),
        ("+", "+", 1.0),
        ("+", "-", 0.0),
        ("北京市", "北京", 0.8),
        ("北京。", "「北京」", 1.0),
        ("東京タワー", "タワー", 0.75),
        ("กรุงเทพ", "กรุงเทพ", 1.0),
        ("القاهرة", "\u200fالقاهرة\u200f", 1.0),
        ("नई दिल्ली", "दिल्ली", 2 / 3),
        ("서울 특별시", "서울", 2 / 3),
        ("ＡＢＣ", "abc", 1.0),
        ("STRASSE", "straße", 1.0),
        ("🍎 apple", "🍎", 2 / 3),
    ],
)
def test_values(given_text: str, target: str, f1: float) -> None:
    assert token_f1(given_text, target) == pytest.approx(f1)


def test_letters_keep_their_marks() -> None:
    assert answer_tokens("น้ำ") == answer_tokens(unicodedata.normalize("NFD", "น้ำ"))
    assert all(unicodedata.category(token[0])[0] != "M" for token in answer_tokens("น้ำใจ"))
    assert answer_tokens("हिन्दी भाषा") == ["हिन्दी", "भाषा"]


@given(given_text=TEXT, target=TEXT)
def test_f1_is_symmetric_in_range_and_blind_to_composition(given_text: str, target: str) -> None:
    f1 = token_f1(given_text, target)
    assert 0.0 <= f1 <= 1.0
    assert f1 == token_f1(target, given_text)
    for form in ("NFC", "NFD", "NFKC"):
        assert token_f1(unicodedata.normalize(form, given_text), target) == f1
    assert token_f1(given_text, given_text) == 1.0


@given(given_text=TEXT, target=TEXT)
def test_f1_is_the_harmonic_mean(given_text: str, target: str) -> None:
    one, other = answer_tokens(given_text), answer_tokens(target)
    same = sum(min(count, other.count(token)) for token, count in Counter(one).items())
    if same == 0:
        assert token_f1(given_text, target) == float(one == other)
        return
    precision, recall = same / len(one), same / len(other)
    assert token_f1(given_text, target) == pytest.approx(2 * precision * recall / (precision + recall))


def test_best_of_the_accepted_answers_over_as_many_lines_as_each_has() -> None:
    text = "Rome\nQuestion: what next?"
    assert best_f1(text, ["Roma", "Rome"]) == 1.0
    assert best_f1(text, ["Rome"], whole=True) < 1.0
    assert best_f1("first\n\nsecond\nthird", ["first\nsecond"]) == 1.0
