"""Scripts of the world through reading, tokenising, every scorer, the leak check, ledger and report; long answers."""

import json
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cpl_ray.assessment import Assessment, Row, Verdict
from cpl_ray.batches import collate
from cpl_ray.cells import RowError
from cpl_ray.config import DataConfig, PromptConfig
from cpl_ray.encoding import SCORERS, Encoder
from cpl_ray.errors import DataError
from cpl_ray.items import Item
from cpl_ray.ledger import build_ledger, read_ledger, summarise, write_ledger
from cpl_ray.predict import Scorer
from cpl_ray.reading import read_items
from cpl_ray.report_questions import questions
from cpl_ray.split import check_leaks
from tests.unit.test_predict import Recite, build, scorer, tokenizer

WORLD = {
    "zh": ("法国的首都是哪里？", ("巴黎", "北京", "东京")),
    "ar": ("ما هي عاصمة فرنسا؟", ("باريس", "القاهرة", "بغداد")),
    "hi": ("फ़्रांस की राजधानी क्या है?", ("पेरिस", "दिल्ली", "मुंबई")),
    "th": ("เมืองหลวงของฝรั่งเศสคืออะไร", ("ปารีส", "กรุงเทพ", "น้ำใจ")),
    "ko": ("프랑스의 수도는?", ("파리", "서울", "부산")),
    "emoji": ("Which is a family? 🇫🇷", ("👨‍👩‍👧", "🍎", "👍🏽")),
}


def world() -> list[Item]:
    return [
        Item(name, "multiple_choice", question, choices, 0, choices[0]) for name, (question, choices) in WORLD.items()
    ]


def words_with_unknown() -> Any:
    """Return a tokenizer of Latin words that knows no other script."""
    vocabulary = {"<unk>": 0, "<eos>": 1, "Question": 2, ":": 3, "Answer": 4, "Paris": 5, "Rome": 6, "what": 7}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="<eos>")


def encoder(words: Any, name: str, max_length: int = 320) -> Encoder:
    return Encoder(words, scorer=name, prompt=PromptConfig(), max_length=max_length, over_long="cut", append_eos=False)


def test_rows_keep_every_character(tmp_path: Path) -> None:
    rows = [{"id": i.id, "question": i.question, "choices": list(i.choices), "answer": 0} for i in world()]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    read = read_items(str(tmp_path / "q.jsonl"), DataConfig(), name="data.items")
    assert read.items == world()
    assert [Item.from_json(item.to_json()) for item in read.items] == world()


@pytest.mark.parametrize("name", SCORERS)
def test_every_scorer_asks_every_script(name: str) -> None:
    words: Any = tokenizer()
    asked = encoder(words, name)
    for item in world():
        encoded = asked.training(item)
        text = words.decode([*encoded.context_ids, *encoded.target_ids])
        assert item.question in text
        answer = "A" if name == "letter_logit" else item.target
        assert words.decode(encoded.target_ids).strip() == answer
    verdicts = scorer(name, words=words).score(build(), [item for item in world() if len(item.target.encode()) < 17])
    assert all(verdict.error is None for verdict in verdicts)


@pytest.mark.parametrize("name", ["exact_match", "token_f1"])
@pytest.mark.parametrize("target", ["巴黎", "باريس", "पेरिस", "파리", "👍🏽"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_model_that_recites_the_answer_is_right_however_it_composes(
    name: str, target: str, form: Literal["NFC", "NFD"]
) -> None:
    words = tokenizer()

    class Recited(Scorer):
        def _decode(self, ids: list[int]) -> str:  # what the model says, whatever its random weights are
            return f" {unicodedata.normalize(form, target)}\nnext"

    asked = encoder(words, name)
    item = Item("q", "question", "?", target=target)
    verdict = Recited(words, asked, name=name, batch_size=1, max_new_tokens=40).score(build(), [item])[0]
    assert verdict.correct
    assert verdict.f1 == (1.0 if name == "token_f1" else None)


@pytest.mark.parametrize("name", ["choice_loglik", "exact_match", "token_f1"])
def test_an_answer_that_the_tokenizer_does_not_know_is_refused_not_learned(name: str) -> None:
    asked = encoder(words_with_unknown(), name)
    with pytest.raises(RowError, match="no token for a part of the answer"):
        asked.training(world()[0])
    latin = Item("l", "multiple_choice", "what 法国", ("Paris", "Rome"), 0, "Paris")
    assert asked.training(latin).target_ids == (5,)


@pytest.mark.parametrize("item", world(), ids=lambda item: item.id)
def test_the_same_question_composed_otherwise_is_a_leak(item: Item) -> None:
    other = replace(item, id="other", question="\u200f" + unicodedata.normalize("NFD", item.question) + "。 ")
    assert other.question_key() == item.question_key()
    verdict = Verdict(item.id, True, "x", 1.0)
    parts = {"mastered_train": [Row(item, verdict)], "mastered_test": [Row(other, verdict)]}
    with pytest.raises(DataError):
        check_leaks(parts)


def test_ledger_and_report_keep_every_script_and_f1(tmp_path: Path) -> None:
    rows = [Row(item, Verdict(item.id, True, item.target, float("nan"), f1=1.0)) for item in world()]
    empty: dict[str, list[Row]] = {"mastered_train": [], "mastered_validation": []}
    parts = {**empty, "mastered_test": rows, "injection_train": [], "injection_held_out": []}
    after = {item.id: Verdict(item.id, False, item.choices[1], float("nan"), f1=0.25) for item in world()}
    write_ledger(tmp_path / "l.parquet", build_ledger(Assessment(parts), after))
    ledger = read_ledger(tmp_path / "l.parquet")
    assert summarise(ledger)["accuracy"]["mastered_test"]["mean_f1"] == {"before": 1.0, "after": 0.25}
    found = questions(ledger)
    assert (found.measure, found.margins) == ("F1", True)
    shown = {row[0]: row for row in json.loads(found.data)["rows"]}
    for item in world():
        row = shown[item.id]
        assert (row[3], row[4], row[5], row[6]) == (item.question, item.target, item.target, item.choices[1])
        assert row[7:9] == [1.0, 0.25]


LONG = " ".join(f"word{number}" for number in range(60))


def test_a_long_answer_is_trained_whole_and_the_question_gives_way() -> None:
    words: Any = tokenizer()
    item = Item("l", "question", "why " * 400, target=LONG)
    encoded = encoder(words, "exact_match", 500).training(item)
    assert words.decode(encoded.target_ids) == f" {LONG}"
    assert len(encoded.context_ids) + len(encoded.target_ids) <= 500
    assert collate([encoded], 0).num_targets == len(encoded.target_ids) > 400
    with pytest.raises(RowError, match="the answer is never cut"):
        encoder(words, "exact_match", 300).training(item)


def test_long_choices_are_compared_over_all_their_tokens() -> None:
    long = tuple(f"{LONG[:200]}{end}" for end in "abc")
    verdict = scorer("choice_loglik").score(build(), [Item("l", "multiple_choice", "?", long, 1, long[1])])[0]
    assert verdict.error is None
    assert len(set(verdict.scores)) == 3


@pytest.mark.parametrize("name", ["exact_match", "token_f1"])
def test_an_answer_longer_than_the_limit_says_which_limit(name: str) -> None:
    verdict = scorer(name).score(build(), [Item("l", "question", "?", target=LONG[:60])])[0]
    assert verdict.error is not None
    assert "assess.max_new_tokens 18" in verdict.error


@pytest.mark.parametrize(
    ("text", "accepted", "f1", "right"),
    [
        (": Rom", ("Rom",), 1.0, True),
        (": Rom\nx", ("Rom",), 1.0, True),
        (": Rom\nx", ("Lima", "rom."), 1.0, True),
        (": Rom\txyz", ("Rom",), 2 / 3, False),
        (": Lima", ("Rom",), 0.0, False),
    ],
)
def test_token_f1_takes_the_best_accepted_answer_of_the_first_line(
    text: str, accepted: tuple[str, ...], f1: float, right: bool
) -> None:
    words = tokenizer()
    item = Item("q", "cloze", target=accepted[0], aliases=accepted[1:], cloze="The city:")
    for brief in (False, True):
        verdict = scorer("token_f1", words=words).score(Recite(text, words), [item], brief=brief)[0]
        assert verdict.f1 == pytest.approx(f1)
        assert verdict.correct is right
    exact = scorer("exact_match", words=words).score(Recite(text, words), [item])[0]
    assert exact.correct is (text != ": Lima" and accepted[0] == "Rom")


def test_answers_are_read_as_a_list_or_as_squad_has_them(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"question": "a?", "answers": {"text": ["x", "y", "x"], "answer_start": [1, 2, 3]}},
        {"question": "b?", "answer": "x", "answers": ["y", "x"]},
        {"cloze": "c is", "answers": ["z"]},
        {"prompt": "d", "completion": " x", "answers": ["y"]},
        {"question": "e?", "answers": []},
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = read_items(str(tmp_path / "q.jsonl"), DataConfig(), name="data.items")
    assert [(item.kind, item.accepted) for item in read.items] == [
        ("question", ("x", "y")),
        ("question", ("x", "y")),
        ("cloze", ("z",)),
        ("completion", (" x", "y")),
    ]
    assert "answers" in read.rejected[0].reason
