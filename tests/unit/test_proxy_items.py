"""Which drafts of a proxy mastered set are kept, and where an answer ends."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cpl_ray.config import Config
from cpl_ray.errors import ConfigError, DataError
from cpl_ray.judging import answers
from cpl_ray.proxy_items import Draft, Seed, answer_of, beginning, flawed, held_out, sift
from cpl_ray.proxy_prompts import check_scorer, seeds_of


def draft(number: int, question: str, **values: Any) -> Draft:
    prompt = f"Question: {question}\nAnswer:"
    return Draft(**{"id": f"d{number}", "question": question, "prompt": prompt, "completion": " yes", **values})


@pytest.mark.parametrize(
    ("text", "stopped", "strict", "one_line", "expected"),
    [
        (" Paris\nQuestion: next", False, False, True, (" Paris", "line")),
        ("\n Paris \nmore", False, False, True, ("\n Paris", "line")),
        ("\nThe answer is:\n1", False, False, True, None),
        (" Paris", True, False, True, (" Paris", "end token")),
        (" One.\nTwo.\n", True, False, False, (" One.\nTwo.", "end token")),
        (" It is 3.5 m. It was bui", False, False, True, (" It is 3.5 m.", "sentence")),
        ("He said “no.” Then", False, False, False, ("He said “no.”", "sentence")),
        (" version 3.", False, False, True, None),  # a digit may follow
        (" It is unfin", False, False, True, None),
        (" Paris\n", False, True, True, None),
        (" Paris. It", False, True, False, None),
        (" Paris", True, True, True, (" Paris", "end token")),
    ],
)
def test_where_an_answer_ends(
    text: str, stopped: bool, strict: bool, one_line: bool, expected: tuple[str, str] | None
) -> None:
    found = answer_of(text, stopped=stopped, strict=strict, one_line=one_line)
    assert found == expected
    if found is not None:  # the scorer that hears the whole text again must agree
        assert answers(text, found[0], strict=strict)


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        ("The capital of France", None),
        ("10000000000", None),
        ("Der Fluss heißt Rhein, der andere Main.", None),
        ("東京都", None),
        ("", "without a letter or digit"),
        ("?!…", "without a letter or digit"),
        ("caf\ufffd", "with half a character"),
        ("ha ha ha ha ha ha ha", "running in circles"),
        ("東京東京東京東京東京東京", "running in circles"),
        ("a cat is a cat is a cat is a cat is a cat", "running in circles"),
    ],
)
def test_flaws(text: str, flaw: str | None) -> None:
    assert flawed(text) == flaw


@pytest.mark.parametrize("text", ["The river flows through the old town", "東京都庁舎", "ab", "one two"])
def test_a_beginning_leaves_something_to_go_on_with(text: str) -> None:
    head = beginning(text)
    assert text.startswith(head)
    assert 0 < len(head) <= (len(text) + 1) // 2
    assert head == head.strip()


def test_sifting_keeps_the_first_of_each_question_and_nothing_to_be_injected() -> None:
    drafts = [
        draft(0, "What is a mill?"),
        draft(1, "what is  A MILL"),
        draft(2, "Where is it?"),
        draft(3, "", reason="answer empty"),
        draft(4, "Who is she?"),
        Draft("d5", prompt="Name the king", completion=" X"),
        draft(6, "What is a tower?"),
    ]
    sifted = sift(drafts, {"where is it", "name the king"})
    assert [one.id for one in sifted.kept] == ["d0", "d4", "d6"]
    expected = {"question asked before": 1, "question kept out": 2, "answer empty": 1}
    assert sifted.rejected == Counter(expected)


def test_a_question_known_in_its_prompt_leaks_too() -> None:
    assert sift([draft(0, "Where is it?")], {"question: where is it?\nanswer"}).rejected == {}
    # normalised() makes one line of it
    assert sift([draft(0, "Where is it?")], {"question: where is it? answer"}).kept == []


def test_held_out_items_follow_from_seed_and_prompt() -> None:
    drafts = [draft(index, f"question {index}?") for index in range(20)]
    train, test = held_out(drafts, 0.25, seed=1)
    assert (len(train), len(test)) == (15, 5)
    assert sorted(one.id for one in train + test) == sorted(one.id for one in drafts)
    again = held_out(drafts[::-1], 0.25, seed=1)
    assert {one.id for one in again[1]} == {one.id for one in test}
    assert {one.id for one in held_out(drafts, 0.25, seed=2)[1]} != {one.id for one in test}
    assert held_out(drafts[:1], 0.25, seed=1) == (drafts[:1], [])
    assert held_out(drafts, 0.0, seed=1) == (drafts, [])


def config(**propose: Any) -> Config:
    return Config.model_validate({"model": "m", "propose": propose})


def test_prompts_of_files(tmp_path: Path) -> None:
    lines = tmp_path / "a.txt"
    lines.write_text("\ufeffWho?\n\n  When? \n", encoding="utf-8")
    assert seeds_of(config(prompts=str(lines)))[0] == [
        Seed("proposed-000001", question="Who?"),
        Seed("proposed-000003", question="When?"),
    ]
    rows = tmp_path / "b.jsonl"
    rows.write_text('{"prompt": "Name a river: "}\n{"question": "Who?", "answer": 3}\n{"text": "x"}\n[1]\n{bad\n')
    seeds, refused = seeds_of(config(prompts=str(rows)))
    assert seeds == [Seed("proposed-000001", prompt="Name a river:"), Seed("proposed-000002", question="Who?")]
    assert [reason.split(": ", 1)[0].rpartition(" ")[2] for reason in refused] == ["3", "4", "5"]
    assert len(seeds_of(config(prompts=str(rows), candidates=1))[0]) == 1
    table = tmp_path / "c.csv"
    table.write_text("stem,x\nWho?,1\n")
    named = Config.model_validate(
        {"model": "m", "data": {"columns": {"question": "stem"}}, "propose": {"prompts": str(table)}}
    )
    assert [seed.question for seed in seeds_of(named)[0]] == ["Who?"]
    assert [Seed.from_json(seed.to_json()) for seed in seeds] == seeds


def test_bad_prompts_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"propose.prompts: there is no file .*missing.txt"):
        seeds_of(config(prompts=str(tmp_path / "missing.txt")))
    (tmp_path / "a.pdf").write_text("x")
    with pytest.raises(ConfigError, match="no readable format"):
        seeds_of(config(prompts=str(tmp_path / "a.pdf")))
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x"}) + "\n")
    with pytest.raises(DataError, match=r"no row of .* is a prompt; the first: .* row 1: .*neither"):
        seeds_of(config(prompts=str(tmp_path / "a.jsonl")))
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8"):
        seeds_of(config(prompts=str(tmp_path / "b.txt")))


def test_without_a_file_the_model_writes_the_questions() -> None:
    seeds, refused = seeds_of(config(items=3))
    assert len({seed.id for seed in seeds}) == 15
    assert all(seed.question is None and seed.prompt is None for seed in seeds)
    assert refused == []
    assert seeds_of(config(items=3, candidates=4))[0] == seeds[:4]


def test_scorers_that_compare_choices_are_refused() -> None:
    with pytest.raises(ConfigError, match="'letter_logit' compares choices"):
        check_scorer(Config.model_validate({"model": "m", "assess": {"scorer": "letter_logit"}}))
    for name in ("auto", "exact_match", "token_f1"):
        check_scorer(Config.model_validate({"model": "m", "assess": {"scorer": name}}))
