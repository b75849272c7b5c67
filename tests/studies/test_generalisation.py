"""The study `generalisation`: denominators by prompt, what carries over, other wordings of items."""

import json
from pathlib import Path
from typing import Any

import pytest

from cpl_ray.config import PromptConfig
from cpl_ray.errors import ConfigError
from cpl_ray.figures_generalisation import draw_generalisation
from cpl_ray.items import Item, Message, parse_row
from cpl_ray.studies.generalisation import OWN, analyse, paired_of, pooled, table_of
from cpl_ray.wordings import LETTER_END, PHRASINGS, Paraphrase, other_wordings, read_paraphrases, reworded

CLOZE = Item("c", "cloze", question="What is it?", choices=("oak", "tin"), answer=1, target="tin", cloze="It is")
PAIR = Item("p", "completion", prompt="It is", target=" tin")
ASKED = Item("q", "question", question="What is it?", target="tin")
CHAT = Item("h", "chat", messages=(Message("system", "Be brief."), Message("user", "What?")), target="tin")


def flips(method: str, prompt: str, part: str, **fates: str) -> list[dict[str, Any]]:
    return [{"method": method, "prompt": prompt, "id": key, "part": part, "flip": flip} for key, flip in fates.items()]


def both(prompt: str, *, cpl: dict[str, str], plain: dict[str, str], part: str) -> list[dict[str, Any]]:
    return flips("cpl", prompt, part, **cpl) + flips("plain", prompt, part, **plain)


def some(count: int, flip: str, other: str, of: int) -> dict[str, str]:
    return {f"i{index}": flip if index < count else other for index in range(of)}


LEARNT = {
    "part": "injection_train",
    "cpl": some(10, "learned", "missed", 12),
    "plain": some(12, "learned", "missed", 12),
}
ROWS = [
    *both(OWN, **LEARNT),  # type: ignore[arg-type]
    # the base model knew i11 under this prompt: it is in no denominator here
    *both(
        "template 1",
        part="injection_train",
        cpl=some(9, "learned", "missed", 11),
        plain=some(1, "learned", "missed", 11),
    ),
    *both(OWN, part="mastered_test", cpl=some(0, "forgotten", "kept", 40), plain=some(5, "forgotten", "kept", 40)),
    *both(
        "template 1",
        part="mastered_test",
        cpl=some(1, "forgotten", "kept", 30),
        plain=some(20, "forgotten", "kept", 30),
    ),
]


def test_numbers_by_method_and_prompt() -> None:
    table = {(row["method"], row["prompt"]): row for row in table_of(ROWS)}
    other = table["cpl", "template 1"]
    assert (other["learned"], other["learned_of"]) == (9, 11)
    assert (other["carried"], other["carried_of"]) == (9, 10)  # of the ten it had learned, all asked here
    assert (table["plain", "template 1"]["carried"], table["plain", "template 1"]["carried_of"]) == (1, 11)
    assert table["cpl", OWN]["carried"] is None
    assert (other["forgotten_held_out"], other["forgotten_held_out_of"]) == (1, 30)
    assert (other["forgotten_in_set"], other["forgotten_in_set_of"]) == (0, 0)
    assert pooled(list(table.values()), "plain", "forgotten_held_out").count == 20
    paired = paired_of(ROWS)["template 1", "forgotten_held_out"]
    assert (paired.only_first, paired.only_second, paired.of) == (0, 19, 30)


def test_the_verdict_says_what_the_numbers_say() -> None:
    found = analyse(ROWS)
    assert "Under each prompt only items count that the base model answered rightly" in found.verdict
    cpl, plain = found.verdict.split("Plain fine-tuning learned")
    assert "CPL learned 10 of 12 with its own prompt and 9 of 11 with the others; of what it had learned 9 of 10" in cpl
    assert "not bound to the prompt. It forgot 0 of 40 of M test" in cpl
    assert "what is kept is not shown to be bound to the prompt" in cpl
    assert "what was learned is for the most part bound to the prompt" in plain
    assert "what is kept is partly bound to the prompt" in plain
    assert "CPL forgot 1 and plain fine-tuning 20 of 30 (exact McNemar p 3.8e-06): CPL forgets less there too" in plain
    assert found.headline["carried_other_cpl"] == 0.9
    assert found.headline["forgotten_held_out_other_plain"] == pytest.approx(2 / 3)
    assert found.headline["prompts"] == 1


def test_a_prompt_under_which_the_base_model_knows_nothing_measures_no_forgetting() -> None:
    mastered = both(OWN, part="mastered_test", cpl={"a": "kept"}, plain={"a": "kept"})
    asked = both("template 1", part="injection_train", cpl={"i0": "missed"}, plain={"i0": "missed"})
    verdict = analyse([*mastered, *asked]).verdict
    assert "the base model answered nothing of M test rightly, so no forgetting was measured" in verdict
    assert "whether it is bound to the prompt was not measured" in verdict


def test_rewording_keeps_id_and_answer() -> None:
    asked = reworded(CLOZE, Paraphrase("question", "Which is it?"))
    assert (asked.kind, asked.question, asked.cloze, asked.choices) == (
        "multiple_choice",
        "Which is it?",
        None,
        CLOZE.choices,
    )
    assert reworded(CLOZE, Paraphrase("cloze", "One has ")).cloze == "One has"
    assert reworded(PAIR, Paraphrase("prompt", "One has")) == Item("p", "completion", prompt="One has", target=" tin")
    assert reworded(PAIR, Paraphrase("question", "Which?")) == Item("p", "question", question="Which?", target="tin")
    assert reworded(ASKED, Paraphrase("cloze", "It is")) == Item(
        "q", "cloze", question="What is it?", target="tin", cloze="It is"
    )
    turns = reworded(CHAT, Paraphrase("question", "Well?")).messages
    assert turns == (Message("system", "Be brief."), Message("user", "Well?"))


def test_wordings_are_templates_then_paraphrases_by_rank(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(
        '{"id": "c", "question": "Which?"}\n\n{"id": "c", "cloze": "One has"}\n{"id": "q", "prompt": "It"}\n'
    )
    given = read_paraphrases(path)
    own = Item("o", "completion", prompt="It is", target=" tin", paraphrases=("Here is",))
    items = [CLOZE, ASKED, own]
    settings: dict[str, Any] = {"scorer": "exact_match", "prompt": PromptConfig(), "chat": False}
    found = other_wordings(items, **settings, templates=["Say: {question}"], paraphrases=given)
    assert [(one.name, [item.id for item in one.items]) for one in found] == [
        ("template 1", ["q"]),
        ("paraphrase 1", ["c", "q", "o"]),
        ("paraphrase 2", ["c"]),
    ]
    assert found[0].prompt.template == "Say: {question}"
    assert found[1].prompt == PromptConfig()
    assert found[1].items[2] == Item("o", "completion", prompt="Here is", target=" tin")
    standard = other_wordings([ASKED], **settings, templates=[], paraphrases={})
    assert [one.prompt.template for one in standard] == list(PHRASINGS)
    letters = other_wordings([ASKED], **{**settings, "scorer": "letter_logit"}, templates=[], paraphrases={})
    assert all(one.prompt.template and one.prompt.template.endswith(LETTER_END) for one in letters)


@pytest.mark.parametrize(
    ("items", "scorer", "templates", "paraphrases", "words"),
    [
        ([PAIR, CLOZE], "exact_match", [], {}, "kind cloze, completion, .* give study.paraphrases=FILE.jsonl"),
        (
            [CLOZE],
            "exact_match",
            ["Q {question}"],
            {},
            "no item is filled into a template; the items are of kind cloze",
        ),
        ([ASKED], "letter_logit", ["Q {question}"], {}, "'Q {question}' shows no {options}"),
        ([ASKED], "exact_match", [], {"x": [Paraphrase("question", "?")]}, "no id is that of an item, e.g. 'x'"),
    ],
)
def test_nothing_else_to_ask_is_refused(
    items: list[Item], scorer: str, templates: list[str], paraphrases: dict[str, list[Paraphrase]], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        other_wordings(
            items, scorer=scorer, prompt=PromptConfig(), chat=False, templates=templates, paraphrases=paraphrases
        )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("{", "line 1 of .* is no JSON"),
        ('{"id": 1, "question": "a"}\n{"id": 2}', "line 2 of .* needs id and one text out of question, prompt, cloze"),
        ('{"id": 1, "question": "a", "cloze": "b"}', "line 1"),
        ('{"question": "a"}', "needs id"),
        ('["id"]', "line 1"),
    ],
)
def test_a_bad_file_of_paraphrases_names_the_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_paraphrases(tmp_path / "p.jsonl")
    with pytest.raises(ConfigError, match=r"none\.jsonl cannot be read"):
        read_paraphrases(tmp_path / "none.jsonl")


def test_items_bring_paraphrases_along() -> None:
    row = {"id": "a", "question": "What?", "answer": "tin", "paraphrases": ["Which?", "Which?", "Well?"]}
    item = parse_row(row, format="auto", columns={}, row_number=1)
    assert item.paraphrases == ("Which?", "Well?")
    assert Item.from_json(item.to_json()) == item
    one = parse_row({**row, "paraphrases": None, "paraphrase": "Well?"}, format="auto", columns={}, row_number=1)
    assert one.paraphrases == ("Well?",)
    as_text = parse_row({**row, "paraphrases": json.dumps(["Well?"])}, format="auto", columns={}, row_number=1)
    assert as_text == one
    assert "paraphrases" not in json.loads(ASKED.to_json())  # items without keep the digests they had


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    (path,) = draw_generalisation(analyse(ROWS), tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")
