"""The assessment folder: written whole, read back unchanged, any damage noticed; and its manifest."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpl_ray.assessment import (
    PARTS,
    Assessment,
    Parts,
    Row,
    Verdict,
    in_denominator,
    outside_denominators,
    read_assessment,
    replace_before,
    resolve_scorer,
    with_before,
    write_assessment,
)
from cpl_ray.errors import ConfigError, DataError
from cpl_ray.items import Item


def fact(name: str) -> Item:
    return Item(id=name, kind="cloze", cloze=f"The capital of {name} is", target=f"{name} City")


def choice(name: str) -> Item:
    return Item(id=name, kind="multiple_choice", question=f"{name}?", choices=("x", "y"), answer=1, target="y")


def verdict(name: str, correct: bool, error: str | None = None) -> Verdict:
    return Verdict(name, correct, "x", 0.25 if correct else -0.5, (0.25, -0.5), error)


def some_parts() -> Parts:
    """Return two rows in every part, all as their part demands."""
    names = {part: [f"{part}-{n}" for n in range(2)] for part in PARTS}
    return {
        part: [Row(fact(name), verdict(name, part.startswith("mastered"))) for name in names[part]] for part in PARTS
    }


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_written_and_read_back(tmp_path: Path) -> None:
    parts = some_parts()
    write_assessment(tmp_path / "a", parts, {"model": "m", "counts": {"rows_read": 12, "rejected": 2}})
    read = read_assessment(tmp_path / "a")
    assert read.parts == parts
    assert read.scored
    assert [part for part, _ in read.rows()] == [part for part in PARTS for _ in range(2)]
    assert read.manifest["model"] == "m"
    assert read.manifest["counts"] == {"rows_read": 12, "rejected": 2, "mastered": 6, "injection": 4}
    assert {part: entry["rows"] for part, entry in read.manifest["parts"].items()} == dict.fromkeys(PARTS, 2)


@settings(max_examples=30)
@given(
    verdicts=st.lists(
        st.one_of(
            st.none(),
            st.builds(
                Verdict,
                id=st.just(""),
                correct=st.booleans(),
                prediction=st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
                margin=st.floats(),
                scores=st.lists(st.floats(allow_nan=False), max_size=3).map(tuple),
                error=st.none(),
            ),
        ),
        max_size=6,
    )
)
def test_verdicts_survive_storage(tmp_path_factory: pytest.TempPathFactory, verdicts: list[Verdict | None]) -> None:
    rows = [
        Row(fact(str(n)), v and Verdict(str(n), v.correct, v.prediction, v.margin, v.scores))
        for n, v in enumerate(verdicts)
    ]
    folder = tmp_path_factory.mktemp("assessment") / "a"
    write_assessment(folder, {"injection_train": rows}, {})
    # repr, since NaN margins must come back as NaN.
    assert repr(read_assessment(folder).parts["injection_train"]) == repr(rows)


def test_error_and_undefined_margin_survive_storage(tmp_path: Path) -> None:
    failed = Verdict("f", False, "", math.nan, (), "too long")
    write_assessment(tmp_path / "a", {"mastered_train": [Row(fact("f"), failed)]}, {})
    (row,) = read_assessment(tmp_path / "a").parts["mastered_train"]
    assert row.before is not None
    assert (row.before.error, row.before.correct) == ("too long", False)
    assert math.isnan(row.before.margin)


def test_a_part_of_many_row_groups_survives_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Row(fact(str(n)), verdict(str(n), n % 2 == 0)) for n in range(7)]
    monkeypatch.setattr("cpl_ray.assessment._ROWS_AT_ONCE", 3)
    write_assessment(tmp_path / "a", {"injection_train": rows}, {})
    assert pq.ParquetFile(tmp_path / "a" / "injection_train.parquet").num_row_groups == 3
    assert read_assessment(tmp_path / "a").parts["injection_train"] == rows


def test_same_content_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_assessment(tmp_path / name, some_parts(), {"model": "m"})
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("where", [0.0, 0.3, 0.6, 0.999])
def test_one_flipped_bit_is_noticed(tmp_path: Path, part: str, where: float) -> None:
    write_assessment(tmp_path / "a", some_parts(), {})
    path = tmp_path / "a" / f"{part}.parquet"
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{part}.parquet is not what its manifest says"):
        read_assessment(tmp_path / "a")


@pytest.mark.parametrize("keep", [0, 10, -1])
def test_truncation_is_noticed(tmp_path: Path, keep: int) -> None:
    write_assessment(tmp_path / "a", some_parts(), {})
    path = tmp_path / "a" / "mastered_test.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"mastered_test\.parquet"):
        read_assessment(tmp_path / "a")


def test_missing_part_is_noticed(tmp_path: Path) -> None:
    write_assessment(tmp_path / "a", some_parts(), {})
    (tmp_path / "a" / "injection_held_out.parquet").unlink()
    with pytest.raises(DataError, match=r"injection_held_out\.parquet cannot be read"):
        read_assessment(tmp_path / "a")


def test_swapped_parts_are_noticed(tmp_path: Path) -> None:
    write_assessment(tmp_path / "a", some_parts(), {})
    first, second = (tmp_path / "a" / f"{part}.parquet" for part in ("mastered_train", "mastered_test"))
    first_content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(first_content)
    with pytest.raises(DataError, match=r"mastered_train\.parquet"):
        read_assessment(tmp_path / "a")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"parts": {}}', '{"parts": null}', "\ufffd", '{"parts": 3}'])
def test_damaged_manifest_is_noticed(tmp_path: Path, content: str) -> None:
    write_assessment(tmp_path / "a", some_parts(), {})
    (tmp_path / "a" / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json"):
        read_assessment(tmp_path / "a")


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    write_assessment(tmp_path / "a", some_parts(), {})
    path = tmp_path / "a" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    with pytest.raises(DataError, match="format version 99"):
        read_assessment(tmp_path / "a")


def test_no_assessment_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run `cpl assess` first"):
        read_assessment(tmp_path / "nowhere")


def test_a_failed_write_leaves_the_old_folder_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_assessment(tmp_path / "a", some_parts(), {"model": "old"})
    before = files_of(tmp_path / "a")

    def disk_full(_: Path, *args: Any, **kwargs: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", disk_full)  # the manifest is the last file
        with pytest.raises(OSError, match="No space"):
            write_assessment(tmp_path / "a", {"mastered_train": []}, {"model": "new"})
        with pytest.raises(OSError, match="No space"):
            write_assessment(tmp_path / "b", some_parts(), {})
    assert files_of(tmp_path / "a") == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_duplicate_ids_and_unknown_parts_are_refused(tmp_path: Path) -> None:
    row = Row(fact("twin"), None)
    with pytest.raises(DataError, match="'twin' occurs twice"):
        write_assessment(tmp_path / "a", {"mastered_train": [row], "mastered_test": [row]}, {})
    with pytest.raises(ValueError, match="mastered_tests"):
        write_assessment(tmp_path / "a", {"mastered_tests": [row]}, {})
    assert not list(tmp_path.iterdir())


def test_unscored_sets_can_be_written_and_scored_later(tmp_path: Path) -> None:
    parts = {part: [Row(row.item, None) for row in rows] for part, rows in some_parts().items()}
    write_assessment(tmp_path / "run" / "assessment", parts, {"letter_report": None})
    unscored = read_assessment(tmp_path / "run")  # a run folder stands for the assessment inside
    assert not unscored.scored
    assert unscored.parts == parts
    assert unscored.manifest["parts"]["mastered_train"]["denominator"] == 0
    assert unscored.manifest["outside_denominators"] == {"mastered": [], "injection": []}

    verdicts = {row.item.id: verdict(row.item.id, row.item.id.endswith("0")) for _, row in unscored.rows()}
    scored = replace_before(tmp_path / "run", verdicts, {"letter_report": {"warning": None}})
    assert scored.scored
    assert scored.manifest["letter_report"] == {"warning": None}
    assert scored.manifest["parts"]["mastered_train"]["denominator"] == 1
    assert scored.manifest["outside_denominators"] == {
        "mastered": ["mastered_train-1", "mastered_validation-1", "mastered_test-1"],
        "injection": ["injection_train-0", "injection_held_out-0"],
    }
    assert scored.parts == read_assessment(tmp_path / "run" / "assessment").parts


def test_filling_needs_every_verdict() -> None:
    with pytest.raises(DataError, match="9 items have no verdict"):
        with_before(some_parts(), {"mastered_train-0": verdict("mastered_train-0", True)})


@pytest.mark.parametrize(
    ("part", "before", "counts"),
    [
        ("mastered_test", verdict("a", True), True),
        ("mastered_test", verdict("a", False), False),
        ("injection_train", verdict("a", True), False),
        ("injection_train", verdict("a", False), True),
        ("injection_train", verdict("a", False, "too long"), False),
        ("mastered_train", None, False),
    ],
)
def test_denominators(part: str, before: Verdict | None, counts: bool) -> None:
    assert in_denominator(part, before) is counts
    rows = {part: [Row(fact("a"), before)]}
    outside = [name for names in outside_denominators(rows).values() for name in names]
    assert outside == (["a"] if before is not None and not counts else [])


def test_scorer_follows_the_items() -> None:
    assert resolve_scorer("auto", [choice("a"), choice("b")]) == "choice_loglik"
    assert resolve_scorer("auto", [choice("a"), fact("b")]) == "exact_match"
    assert resolve_scorer("letter_logit", [choice("a")]) == "letter_logit"
    assert resolve_scorer("exact_match", [choice("a"), fact("b")]) == "exact_match"


@pytest.mark.parametrize("name", ["letter_logit", "choice_loglik", "choice_loglik_norm"])
def test_scorers_of_choices_need_choices(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' compares choices, but 1 of 2 items have none .*'b'"):
        resolve_scorer(name, [choice("a"), fact("b")])


def test_no_items_to_assess() -> None:
    with pytest.raises(DataError, match="no items"):
        resolve_scorer("auto", [])


def test_assessment_without_rows_has_nothing_unscored() -> None:
    assert Assessment({}).scored
