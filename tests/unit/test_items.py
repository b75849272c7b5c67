"""Rows become items or a reason, whatever they hold; items survive JSON; answers mean one choice or none."""

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpl_ray.cells import answer_index, normalised
from cpl_ray.items import COLUMNS, ROLES, Item, Message, RowError, parse_row
from cpl_ray.pictures import Picture

FORMATS = ("auto", "multiple_choice", "cloze", "completion", "chat")

texts = st.text(max_size=30)
items = st.builds(
    Item,
    id=texts,
    kind=st.sampled_from(FORMATS[1:]),
    question=texts,
    choices=st.lists(texts, max_size=4).map(tuple),
    answer=st.none() | st.integers(0, 3),
    target=texts,
    cloze=st.none() | texts,
    prompt=st.none() | texts,
    messages=st.lists(st.builds(Message, st.sampled_from(ROLES), texts), max_size=3).map(tuple),
    subject=st.none() | texts,
    aliases=st.lists(texts, max_size=2).map(tuple),
    image=st.none() | st.builds(Picture, texts, texts),
    paraphrases=st.lists(texts, max_size=2).map(tuple),
)
any_text = st.text(alphabet=st.characters(), max_size=10)  # lone surrogates too, as JSON escapes can make them
scalars = st.none() | st.booleans() | st.integers(-3, 30) | st.floats() | any_text | st.sampled_from(["A", "b)", "[1]"])
json_values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["text", "label", "role", "content"]) | any_text, inner, max_size=3)
    ),
    max_leaves=8,
)
turns = st.fixed_dictionaries({"role": st.sampled_from(ROLES) | scalars, "content": scalars})
near_rows = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(COLUMNS, json_values),
        "question": any_text,
        "choices": st.lists(any_text | st.integers(), min_size=2, max_size=30),
        "answer": scalars,
        "messages": st.lists(turns, max_size=4),
    },
)


def parse(row: dict[str, Any], format: str = "auto", columns: dict[str, str] | None = None) -> Item:
    return parse_row(row, format=format, columns=columns or {}, row_number=7, default_id="set-7")


@given(items)
def test_item_survives_json(item: Item) -> None:
    line = item.to_json()
    assert "\n" not in line
    assert Item.from_json(line) == item
    empty = {name for name in ("aliases", "image", "paraphrases") if not getattr(item, name)}
    stored = {name: value for name, value in asdict(item).items() if name not in empty}
    assert line == json.dumps(stored, ensure_ascii=False)  # digests are of these very bytes


@given(st.text(st.characters(max_codepoint=127)))
def test_the_short_way_of_ascii_folds_as_the_long_one(text: str) -> None:
    long = normalised(text + "\u200d")  # a character that does not count, and is not ASCII
    assert normalised(text) == long


@given(near_rows | st.dictionaries(any_text, json_values, max_size=4) | json_values, st.sampled_from(FORMATS))
def test_any_row_gives_an_item_or_a_reason(row: Any, format: str) -> None:
    try:
        item = parse_row(row, format=format, columns={}, row_number=1, default_id="x")
    except RowError as error:
        reason = str(error)
    else:
        reason = ""
    assert len(reason.encode("utf-8")) < 2000
    if reason:
        return
    assert Item.from_json(item.to_json().encode("utf-8").decode("utf-8")) == item
    assert item.target.strip()
    assert item.question_key()
    if item.choices:
        assert item.answer is not None
        assert item.target == item.choices[item.answer]
        assert 2 <= len(item.choices) <= 26
        assert all(choice.strip() for choice in item.choices)


def test_multiple_choice_row() -> None:
    row = {"id": 3, "question": "Capital of France?", "choices": ["Rome", "Paris"], "answer": 1, "subject": "geo"}
    assert parse(row) == Item(
        "3", "multiple_choice", "Capital of France?", ("Rome", "Paris"), 1, "Paris", subject="geo"
    )


def test_cloze_row_with_and_without_choices() -> None:
    row = {"cloze": "The capital of France is ", "answer": " Paris "}
    assert parse(row) == Item("set-7", "cloze", target="Paris", cloze="The capital of France is")
    item = parse({**row, "question": "Capital?", "choices": ["Paris", "Rome"], "answer": "A"})
    assert (item.kind, item.question, item.answer, item.target) == ("cloze", "Capital?", 0, "Paris")
    assert parse({"cloze": "Men walked on the moon in", "answer": 1969, "choices": []}).target == "1969"


def test_completion_row_is_kept_exactly() -> None:
    item = parse({"prompt": " Q: 1+1?\n", "completion": " 2\n"})
    assert (item.kind, item.prompt, item.target) == ("completion", " Q: 1+1?\n", " 2\n")


def test_chat_row_ends_with_the_answer() -> None:
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Capital of France?"},
        {"role": "assistant", "content": "Paris"},
    ]
    item = parse({"messages": messages})
    assert item.messages == (Message("system", "Be short."), Message("user", "Capital of France?"))
    assert item.target == "Paris"
    assert parse({"messages": json.dumps(messages)}) == item
    assert parse({"messages": np.array(messages, dtype=object)}) == item


def test_auto_prefers_the_columns_that_hold_something() -> None:
    row = {"messages": None, "prompt": math.nan, "completion": "", "cloze": " ", "question": "Q", "choices": ["a", "b"]}
    assert parse({**row, "answer": "b"}).kind == "multiple_choice"
    assert parse({**row, "prompt": "p", "completion": "c"}).kind == "completion"


def test_columns_are_renamed() -> None:
    row = {"stem": "Q", "opts": ["a", "b"], "answerKey": "B", "question": "another one"}
    item = parse(row, columns={"question": "stem", "choices": "opts", "answer": "answerKey"})
    assert (item.question, item.answer) == ("Q", 1)
    with pytest.raises(RowError, match=r"question \(column 'stem'\) is missing"):
        parse({"choices": ["a", "b"], "answer": 0}, "multiple_choice", {"question": "stem"})


@pytest.mark.parametrize(
    "choices",
    [
        ["Rome", "Paris"],
        np.array(["Rome", "Paris"], dtype=object),
        '["Rome", "Paris"]',
        "['Rome', 'Paris']",
        {"text": ["Rome", "Paris"], "label": ["A", "B"]},
        {"text": np.array(["Rome", "Paris"]), "label": np.array(["1", "2"])},
        '{"text": ["Rome", "Paris"], "label": ["x", "y"]}',
    ],
)
def test_forms_of_choices(choices: Any) -> None:
    item = parse({"question": "Q", "choices": choices, "answer": "Paris"})
    assert item.choices == ("Rome", "Paris")
    assert item.answer == 1
    assert all(type(choice) is str for choice in item.choices)


@pytest.mark.parametrize(
    "answer", [2, 2.0, np.int64(2), np.float64(2.0), "2", "C", "c", "(C)", "C.", " C) ", "Oslo", "oslo. "]
)
def test_forms_of_answers(answer: Any) -> None:
    assert parse({"question": "Q", "choices": ["Rome", "Paris", "Oslo"], "answer": answer}).answer == 2


def test_own_labels_win() -> None:
    row = {"question": "Q", "choices": {"text": ["w", "x", "y", "z"], "label": ["1", "2", "3", "4"]}, "answer": "3"}
    assert parse(row).target == "y"  # and not index 3


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": "Q", "choices": ["1", "2", "3"], "answer": "2"}, "ambiguous"),
        ({"question": "Q", "choices": ["B", "A", "C"], "answer": "B"}, "ambiguous"),
        ({"question": "Q", "choices": [3, 1, 2], "answer": 1.0}, None),
        ({"question": "Q", "choices": [3, 2, 1], "answer": 2}, "ambiguous"),
        ({"question": "Q", "choices": ["a", "b"], "answer": 2}, r"index 0\.\.1"),
        ({"question": "Q", "choices": ["a", "b"], "answer": -1}, r"answer -1"),
        ({"question": "Q", "choices": ["a", "b"], "answer": 0.5}, r"answer 0\.5"),
        ({"question": "Q", "choices": ["a", "b"], "answer": True}, "answer True"),
        ({"question": "Q", "choices": ["a", "b"], "answer": "Z"}, "no letter"),
        ({"question": "Q", "choices": ["a", "b"], "answer": math.nan}, "answer is missing"),
        ({"question": "Q", "choices": ["a", "b"], "answer": ["a"]}, "type list"),
        ({"question": "Q", "choices": ["same", "same"], "answer": "same"}, "2 times"),
        ({"question": "Q", "choices": ["same", "same"], "answer": 1}, None),
        ({"question": "Q", "choices": ["a"], "answer": 0}, "1 entries"),
        ({"question": "Q", "choices": [str(i) for i in range(27)], "answer": 0}, "27 entries"),
        ({"question": "Q", "choices": ["a", None], "answer": 0}, "choice B is missing"),
        ({"question": "Q", "choices": ["a", ["b"]], "answer": 0}, "choice B is of type list"),
        ({"question": "Q", "choices": ["a", 2], "answer": 1}, None),
        ({"question": "Q", "choices": "a, b", "answer": 0}, "not a JSON list"),
        ({"question": "Q", "choices": {"text": ["a", "b"], "label": ["A"]}, "answer": 0}, "2 texts but 1 labels"),
        ({"question": 5, "choices": ["a", "b"], "answer": 0}, "type int, not text: 5"),
        ({"question": "\ud800", "choices": ["a", "b"], "answer": 0}, "not valid Unicode"),
        ({"question": b"caf\xe9", "choices": ["a", "b"], "answer": 0}, "not valid UTF-8"),
        ({"question": "Q", "anser": "a"}, "its columns are 'question', 'anser'"),
        ({"cloze": "The capital is"}, "answer is missing"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "ends with user"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, "no user turn"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "role 'robot'"),
        ({"messages": [{"role": "user", "content": None}]}, "content of message 1 is missing"),
        ({"messages": ["hi"]}, "message 1 is of type str"),
    ],
)
def test_reasons(row: dict[str, Any], reason: str | None) -> None:
    if reason is None:
        parse(row)
        return
    with pytest.raises(RowError, match=reason):
        parse(row)


@given(st.lists(st.text("abcdefgh 123", min_size=1, max_size=6), min_size=2, max_size=26), st.data())
def test_a_text_answer_is_found_or_refused_but_never_mistaken(choices: list[str], data: st.DataObject) -> None:
    gold = data.draw(st.sampled_from(choices))
    try:
        index = answer_index(gold, choices)
    except RowError:
        return
    assert choices[index].strip() == gold.strip()


def test_question_keys_fold_form_but_not_meaning() -> None:
    def key(question: str) -> str:
        return Item("i", "multiple_choice", question=question).question_key()

    assert key(" What  is the\tcapital of FRANCE ?") == key("what is the capital of france")
    assert key("ﬁve…") == key("five")
    assert key("What is C#?") != key("What is C?")
    assert key("What is C++?") != key("What is C?")
    assert key("???") != ""
    assert normalised("«Straße»") == "strasse"
    chat = Item("i", "chat", messages=(Message("system", "S"), Message("user", "Hi!"), Message("assistant", "Yes")))
    assert chat.question_key() == "hi\nyes"


def test_stored_lines_that_are_none_give_a_reason() -> None:
    for text in ("", "[]", "{}", '{"id": 1}', '{"choices": 3, "messages": []}', "null"):
        with pytest.raises(RowError, match="not a stored item"):
            Item.from_json(text)
