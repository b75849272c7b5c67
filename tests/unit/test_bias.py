"""The letter report: right counts, a warning exactly where one letter explains the sets."""

import pytest

from cpl_ray.assessment import Verdict
from cpl_ray.bias import letter_report
from cpl_ray.items import Item

LETTERS = "ABCD"
CHOICES = ("red", "green", "blue", "grey")


def sample(answers: list[tuple[int, int]], said: str = "letter") -> tuple[list[Item], dict[str, Verdict]]:
    """Return four-choice items from (gold, predicted) positions; `said`: how the prediction is given."""
    items, verdicts = [], {}
    for n, (gold, predicted) in enumerate(answers):
        name = str(n)
        items.append(
            Item(
                id=name, kind="multiple_choice", question=f"Q {n}?", choices=CHOICES, answer=gold, target=CHOICES[gold]
            )
        )
        answer = {"letter": LETTERS[predicted], "text": CHOICES[predicted], "scores": ""}[said]
        scores = tuple(float(place == predicted) for place in range(4)) if said == "scores" else ()
        verdicts[name] = Verdict(name, gold == predicted, answer, 0.0, scores)
    return items, verdicts


@pytest.mark.parametrize("said", ["letter", "text", "scores"])
def test_letters_are_counted(said: str) -> None:
    items, verdicts = sample([(0, 0), (1, 1), (1, 2), (3, 0)], said)
    assert letter_report(items, verdicts) == {
        "mastered": {"items": 2, "gold": {"A": 1, "B": 1}, "predicted": {"A": 1, "B": 1}},
        "injection": {"items": 2, "gold": {"B": 1, "D": 1}, "predicted": {"A": 1, "C": 1}},
        "warning": None,
    }


def test_a_model_that_answers_one_letter_is_warned_of() -> None:
    warning = letter_report(*sample([(n % 4, 0) for n in range(80)]))["warning"]
    assert (
        "the model answers A to 80 of 80 (100 %) of the items, but A is the right answer of 20 of 80 (25 %)" in warning
    )
    assert "A is the right answer of 20 of 20 (100 %) mastered items, but of 0 of 60 (0 %) injection items" in warning


def test_a_letter_prior_of_mastered_alone_is_warned_of() -> None:
    # Predictions are balanced, yet 24 of 30 mastered items stand under A.
    answers = [(0, 0)] * 24 + [(2, 2)] * 6 + [(1, 3)] * 15 + [(3, 1)] * 15 + [(1, 2)] * 5
    warning = letter_report(*sample(answers))["warning"]
    assert warning == (
        "letter bias: A is the right answer of 24 of 30 (80 %) mastered items, but of 0 of 35 (0 %) injection items"
    )


def test_an_unbiased_model_is_not_warned_of() -> None:
    answers = [(n % 4, n % 4 if n % 3 else (n + 1) % 4) for n in range(120)]
    assert letter_report(*sample(answers))["warning"] is None


def test_unbalanced_gold_letters_are_no_bias_of_the_model() -> None:
    answers = [(0, 0)] * 50 + [(1, 1)] * 5 + [(0, 2)] * 20 + [(1, 0)] * 2
    assert letter_report(*sample(answers))["warning"] is None


def test_a_handful_of_items_proves_nothing() -> None:
    assert letter_report(*sample([(0, 0), (1, 0), (2, 0)]))["warning"] is None


def test_items_without_choices_and_failures_are_left_out() -> None:
    items, verdicts = sample([(0, 0)])
    items += [Item(id="c", kind="cloze", cloze="The sky is", target="blue"), *sample([(1, 1)] * 3)[0][2:]]
    verdicts |= {"c": Verdict("c", True, "blue", 0.0), "2": Verdict("2", False, "", 0.0, (), "too long")}
    report = letter_report(items, verdicts)
    assert (report["mastered"]["items"], report["injection"]["items"]) == (1, 0)
    assert letter_report([], {})["warning"] is None
