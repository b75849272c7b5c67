"""The ledger: every item once, flips by definition, rates with the right denominators."""

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpl_ray.assessment import PARTS, Assessment, Parts, Row, Verdict
from cpl_ray.errors import ConfigError, DataError
from cpl_ray.items import Item
from cpl_ray.ledger import build_ledger, flip_of, read_ledger, summarise, write_ledger
from cpl_ray.measures import Rate, mcnemar_exact


def verdict(name: str, correct: bool, error: str | None = None, margin: float = 0.5) -> Verdict:
    return Verdict(name, correct, f"answer of {name}", margin if correct else -margin, (), error)


def study(outcomes: dict[str, list[tuple[bool, bool]]]) -> tuple[Assessment, dict[str, Verdict]]:
    """Return an assessment and later verdicts from (right before, right after) per part."""
    parts: Parts = {part: [] for part in PARTS}
    after = {}
    for part, pairs in outcomes.items():
        for n, (before, later) in enumerate(pairs):
            name = f"{part}-{n}"
            item = Item(id=name, kind="cloze", cloze=f"{name} is", target="so")
            parts[part].append(Row(item, verdict(name, before)))
            after[name] = verdict(name, later, margin=2.0)
    return Assessment(parts), after


@pytest.mark.parametrize(
    ("part", "before", "after", "flip"),
    [
        ("mastered_test", True, True, "kept"),
        ("mastered_test", True, False, "forgotten"),
        ("mastered_test", False, True, None),
        ("mastered_test", False, False, None),
        ("injection_train", False, True, "learned"),
        ("injection_train", False, False, "missed"),
        ("injection_train", True, True, None),
        ("injection_train", True, False, None),
    ],
)
def test_flips(part: str, before: bool, after: bool, flip: str | None) -> None:
    assert flip_of(part, verdict("a", before), verdict("a", after)) == flip
    assert flip_of(part, None, verdict("a", after)) is None


def test_failure_to_score_never_flatters() -> None:
    failed = verdict("a", False, "too long")
    assert flip_of("mastered_test", verdict("a", True), failed) == "forgotten"
    assert flip_of("injection_train", verdict("a", False), failed) == "missed"
    assert flip_of("injection_train", failed, verdict("a", True)) is None


def test_columns_and_values() -> None:
    assessment, after = study({"mastered_test": [(True, False)], "injection_train": [(False, True)]})
    table = build_ledger(assessment, after)
    first, second = table.to_pylist()
    assert list(first) == [
        *("id", "set", "part", "question", "target"),
        *("before_correct", "before_prediction", "before_margin"),
        *("after_correct", "after_prediction", "after_margin"),
        *("flip", "before_error", "after_error", "before_f1", "after_f1"),
    ]
    assert (first["id"], first["set"], first["part"]) == ("mastered_test-0", "mastered", "mastered_test")
    assert (first["question"], first["target"], first["flip"]) == ("mastered_test-0 is", "so", "forgotten")
    assert (first["before_correct"], first["before_margin"], first["after_margin"]) == (True, 0.5, -2.0)
    assert (second["set"], second["flip"], second["after_prediction"]) == (
        "injection",
        "learned",
        "answer of injection_train-0",
    )


def test_undefined_values_are_null() -> None:
    item = Item(id="a", kind="completion", prompt="1 + 1 =", target=" 2")
    parts: Parts = {"injection_train": [Row(item, Verdict("a", False, "", math.nan, (), "too long"))]}
    (row,) = build_ledger(Assessment(parts), {"a": verdict("a", True)}).to_pylist()
    assert (row["question"], row["before_correct"], row["before_margin"]) == ("1 + 1 =", None, None)
    assert (row["before_error"], row["after_error"], row["flip"]) == ("too long", None, None)


outcomes = st.fixed_dictionaries(
    {part: st.lists(st.tuples(st.booleans(), st.booleans()), max_size=8) for part in PARTS}
)


@settings(max_examples=60)
@given(outcomes)
def test_rates_follow_their_definitions(pairs: dict[str, list[tuple[bool, bool]]]) -> None:
    table = build_ledger(*study(pairs))
    summary = summarise(table)
    assert table.num_rows == sum(len(rows) for rows in pairs.values())
    names = {"held_out": "mastered_test", "validation": "mastered_validation", "in_set": "mastered_train"}
    for name, part in names.items():
        mastered = [after for before, after in pairs[part] if before]
        assert summary["forgotten"][name] == Rate(mastered.count(False), len(mastered)).to_dict()
    unknown = [after for before, after in pairs["injection_train"] if not before]
    assert summary["learned"] == Rate(unknown.count(True), len(unknown)).to_dict()
    held_out = [after for before, after in pairs["injection_held_out"] if not before]
    assert summary["learned_held_out"] == (
        Rate(held_out.count(True), len(held_out)).to_dict() if pairs["injection_held_out"] else None
    )


def test_honest_number_first() -> None:
    summary = summarise(build_ledger(*study({"mastered_test": [(True, True)]})))
    assert next(iter(summary)) == "forgotten"
    assert list(summary["forgotten"]) == ["held_out", "validation", "in_set"]


def test_paired_accuracy_counts_every_item() -> None:
    before_after = [(True, True)] * 4 + [(True, False)] * 3 + [(False, True)] * 2 + [(False, False)]
    accuracy = summarise(build_ledger(*study({"mastered_test": before_after})))["accuracy"]
    assert list(accuracy) == ["mastered_test"]
    assert accuracy["mastered_test"]["before"]["count"] == 7
    assert accuracy["mastered_test"]["after"] == Rate(6, 10).to_dict()
    assert accuracy["mastered_test"]["paired"] == {
        "both": 4,
        "only_first": 3,
        "only_second": 2,
        "neither": 1,
        "mcnemar_p": mcnemar_exact(3, 2),
    }


def test_every_item_must_have_both_verdicts() -> None:
    assessment, after = study({"mastered_train": [(True, True)] * 3})
    with pytest.raises(DataError, match=r"1 items have no verdict after training, e\.g\. mastered_train-1"):
        build_ledger(assessment, {name: after[name] for name in after if name != "mastered_train-1"})
    unscored = {part: [Row(row.item, None) for row in rows] for part, rows in assessment.parts.items()}
    with pytest.raises(DataError, match="no verdicts of the base model"):
        build_ledger(Assessment(unscored), after)


def test_stored_ledger_reads_back(tmp_path: Path) -> None:
    table = build_ledger(*study({part: [(True, True), (True, False), (False, True), (False, False)] for part in PARTS}))
    write_ledger(tmp_path / "flips.parquet", table)
    assert read_ledger(tmp_path / "flips.parquet").equals(table)
    assert [path.name for path in tmp_path.iterdir()] == ["flips.parquet"]


def test_missing_and_damaged_ledgers(tmp_path: Path) -> None:
    path = tmp_path / "flips.parquet"
    with pytest.raises(ConfigError, match="run `cpl evaluate` first"):
        read_ledger(path)
    write_ledger(path, build_ledger(*study({"mastered_test": [(True, False)]})))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"flips\.parquet is damaged"):
        read_ledger(path)
    write_ledger(path, build_ledger(*study({})).drop_columns(["flip"]))
    with pytest.raises(DataError, match="no column 'flip'"):
        read_ledger(path)
