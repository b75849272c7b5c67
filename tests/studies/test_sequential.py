"""Injection in rounds: the cut, what a round is made of, the measures by hand, words that follow the numbers."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from cpl_ray.assessment import Assessment, Row, Verdict, write_assessment
from cpl_ray.config import Config
from cpl_ray.config_study import StudyConfig
from cpl_ray.errors import DataError, ResumeError
from cpl_ray.figures_sequential import draw_sequential
from cpl_ray.items import Item
from cpl_ray.ledger import build_ledger
from cpl_ray.measures import Rate
from cpl_ray.rundir import RunDir
from cpl_ray.studies.findings import Findings, begin_findings, write_findings
from cpl_ray.studies.rounds import answered, answers_of, base_answers, counts, cut, of_round
from cpl_ray.studies.sequential import analyse, backward_transfer, forgetting, forgotten, matrix, paired, survived
from pipelines.studies.bench import Bench
from pipelines.studies.rounds import Plan


def row(name: str, right: bool, question: str | None = None, error: str | None = None) -> Row:
    item = Item(id=name, kind="completion", prompt=question or f"What is {name}", target="yes")
    return Row(item, Verdict(name, right, "yes", 1.0, (), error))


def whole(num_injection: int = 6) -> Assessment:
    """Return an assessment with an odd row on each side: a mastered one answered wrongly, an injected one rightly."""
    parts = {
        "mastered_train": [row("m0", True), row("m1", True), row("m-odd", False)],
        "mastered_validation": [row("v0", True)],
        "mastered_test": [row("t0", True), row("t1", True)],
        "injection_train": [*(row(f"i{n}", False) for n in range(num_injection)), row("i-odd", True)],
        "injection_held_out": [row("h0", False)],
    }
    return Assessment(parts)


def ids(rows: list[Row]) -> list[str]:
    return [one.item.id for one in rows]


@pytest.mark.parametrize(("num_rows", "num_rounds"), [(7, 2), (7, 3), (7, 7), (100, 9)])
def test_the_cut_is_disjoint_complete_even_and_by_seed(num_rows: int, num_rounds: int) -> None:
    rows = [row(f"i{n}", False) for n in range(num_rows)]
    parts = cut(rows, num_rounds, 0)
    together = [name for part in parts for name in ids(part)]
    assert sorted(together) == sorted(ids(rows))
    sizes = [len(part) for part in parts]
    assert len(parts) == num_rounds
    assert max(sizes) - min(sizes) <= 1
    assert [set(ids(part)) for part in cut(rows[::-1], num_rounds, 0)] == [set(ids(part)) for part in parts]
    assert [ids(part) for part in cut(rows, num_rounds, 1)] != [ids(part) for part in parts]
    for part in parts:
        assert part == sorted(part, key=lambda one: int(one.item.id[1:]))  # file order


def test_questions_stay_together_and_rows_that_do_not_count_are_left_out() -> None:
    rows = [row("a", False, "Same?"), row("b", False, "Other?"), row("c", False, "Same?")]
    rows += [row("known", True), row("unasked", False, error="too long")]
    assert sorted(ids(part) for part in cut(rows, 2, 0)) == [["a", "c"], ["b"]]
    with pytest.raises(DataError, match=r"study\.rounds is 3, but the injection set has 2 questions"):
        cut(rows, 3, 0)


def quiet(message: str, *, event: str = "say", **fields: Any) -> None:
    """Say nothing."""


def test_a_plan_is_that_of_the_settings(tmp_path: Path) -> None:
    place = {"name": "asked", "dir": str(tmp_path)}
    settings = {"model": "toy", "run": place, "train": {"mastered_size": 2}, "study": {"rounds": 6}}
    config = Config.model_validate(settings)
    run = RunDir(config)
    write_assessment(run.assessment, whole().parts, {})
    plan = Plan.of(Bench(config, run, quiet))
    assert [len(part) for part in plan.parts] == [1] * 6
    assert len(plan.whole.parts["mastered_train"]) == 2
    assert plan.base.keys() == {one.item.id for _, one in plan.whole.rows()}
    more = Config.model_validate({**settings, "study": {"rounds": 7}})
    with pytest.raises(DataError, match=r"study\.rounds is 7, but the injection set has 6 questions"):
        Plan.of(Bench(more, run, quiet))


def test_one_round_is_refused() -> None:
    assert StudyConfig(rounds=2).rounds == 2
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        StudyConfig(rounds=1)


@pytest.mark.parametrize("keep_learned", [True, False])
def test_a_round_protects_what_was_learned_and_scores_everything(keep_learned: bool) -> None:
    base = whole()
    rows = base.parts["injection_train"]
    parts = [[rows[0], rows[1]], [rows[2], rows[3]], [rows[4], rows[5]]]
    right = {"m0", "v0", "t0", "t1", "i0", "i2", "i4"}  # after round 1: m1 is forgotten, i2 and i4 came by themselves
    answers = {one.item.id: Verdict(one.item.id, one.item.id in right, "yes", 1.0) for _, one in base.rows()}
    found = of_round(base, parts, 1, answers, keep_learned=keep_learned)
    kept = ["i0"] if keep_learned else []
    assert ids(found["mastered_train"]) == ["m0", "m1", "m-odd", *kept]
    assert ids(found["injection_train"]) == ["i2", "i3"]
    assert set(ids(found["injection_held_out"])) == {"i0", "i1", "i4", "i5"} - set(kept)
    assert (ids(found["mastered_validation"]), ids(found["mastered_test"])) == (["v0"], ["t0", "t1"])
    assert all(one.before == answers[one.item.id] for rows in found.values() for one in rows)
    again = of_round(base, parts, 0, base_answers(base), keep_learned=keep_learned)
    assert ids(again["mastered_train"]) == ["m0", "m1", "m-odd"]
    assert set(ids(again["injection_held_out"])) == {"i2", "i3", "i4", "i5"}


def test_answers_survive_the_ledger() -> None:
    base = whole()
    after = {
        "m0": Verdict("m0", True, "yes", 2.0, (1.0, -1.0)),
        "m1": Verdict("m1", False, "", float("nan"), (), "out of memory"),
    }
    after = {one.item.id: after.get(one.item.id, Verdict(one.item.id, False, "no", 1.0)) for _, one in base.rows()}
    found = answers_of(build_ledger(base, after))
    assert found.keys() == after.keys()
    assert found["m0"] == Verdict("m0", True, "yes", 2.0)
    assert (found["m1"].correct, found["m1"].error) == (False, "out of memory")


def test_denominators_are_those_of_the_base_model() -> None:
    base = whole()
    parts = cut(base.parts["injection_train"], 2, 0)
    all_right = {one.item.id: Verdict(one.item.id, True, "yes", 1.0) for _, one in base.rows()}
    all_right["t0"] = Verdict("t0", True, "", 1.0, (), "cannot be scored any more")
    table = counts(answered(base, parts, all_right, method="cpl", after=1))
    assert [(one["part"], one["right"], one["of"]) for one in table] == [
        ("mastered_test", 1, 2),
        ("mastered_validation", 1, 1),
        ("mastered_train", 2, 2),  # m-odd was never mastered
        ("injection_1", 3, 3),
        ("injection_2", 3, 3),
    ]


def test_measures_by_hand() -> None:
    of = [[0.8, 0.0, 0.0], [0.9, 1.0, 0.1], [0.5, 0.9, 1.0]]
    assert backward_transfer(of) == pytest.approx(((0.5 - 0.8) + (0.9 - 1.0)) / 2)
    assert forgetting(of) == pytest.approx(((0.9 - 0.5) + (1.0 - 0.9)) / 2)
    better = [[0.5, 0.0], [0.7, 1.0]]
    assert (backward_transfer(better), forgetting(better)) == (pytest.approx(0.2), pytest.approx(-0.2))


def made(right: dict[str, list[dict[str, int]]], sizes: dict[str, int]) -> list[dict[str, Any]]:
    """Return items: by method and round how many of each part, the first of it, are right."""
    return [
        {"method": method, "round": after, "part": part, "id": f"{part}-{index}", "right": index < one[part]}
        for method, rounds in right.items()
        for after, one in enumerate(rounds)
        for part, size in sizes.items()
        for index in range(size)
    ]


def example() -> list[dict[str, Any]]:
    sizes = {"mastered_test": 40, "injection_1": 10, "injection_2": 10}
    base = {"mastered_test": 40, "injection_1": 0, "injection_2": 0}
    cpl = [
        {"mastered_test": 40, "injection_1": 10, "injection_2": 0},
        {"mastered_test": 39, "injection_1": 9, "injection_2": 10},
    ]
    plain = [
        {"mastered_test": 35, "injection_1": 10, "injection_2": 1},
        {"mastered_test": 30, "injection_1": 4, "injection_2": 10},
    ]
    return made({"cpl": [base, *cpl], "fine_tuning": [base, *plain]}, sizes)


def test_numbers_of_an_example() -> None:
    items = example()
    rounds = counts(items)
    assert matrix(rounds, "cpl") == [[1.0, 0.0], [0.9, 1.0]]
    assert matrix(rounds, "fine_tuning") == [[1.0, 0.1], [0.4, 1.0]]
    assert forgotten(rounds, "fine_tuning") == [Rate(5, 40), Rate(10, 40)]
    assert survived(rounds, "cpl") == Rate(19, 20)
    table = paired(items, "mastered_test", ("cpl", "fine_tuning"))
    assert (table.only_first, table.only_second) == (9, 0)


def test_the_verdict_says_what_the_numbers_say(tmp_path: Path) -> None:
    found = analyse(example(), lr=3e-4, keep_learned=True)
    assert found.headline["bwt_cpl"] == pytest.approx(-0.1)
    assert found.headline["forgetting_fine_tuning"] == pytest.approx(0.6)
    assert found.headline["mcnemar_held_out"] == pytest.approx(2 * 0.5**9)
    assert "in 2 rounds of 10, 10 items; what was learned joins the mastered set" in found.verdict
    assert "it has forgotten 5, 10 after each round, at the end 25.0 % [12.7 %, 41.2 %]" in found.verdict
    assert "39 (CPL) and 30 (fine-tuning) of 40 items of M test are right: CPL keeps more" in found.verdict
    assert "19 (CPL) and 14 (fine-tuning) of 20" in found.verdict
    assert "these items do not tell the methods apart (exact McNemar p 0.062)" in found.verdict
    (path,) = draw_sequential(found, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_without_m_test_nothing_is_claimed_of_it() -> None:
    items = [one for one in example() if one["part"] != "mastered_test"]
    found = analyse(items, lr=3e-4, keep_learned=False)
    assert found.headline["forgotten_held_out_cpl"] is None
    assert "only the original M train is protected" in found.verdict
    assert "There is no M test to measure forgetting on" in found.verdict


def test_a_page_marks_a_study_from_its_beginning(tmp_path: Path) -> None:
    begin_findings(tmp_path, "sequential")
    assert json.loads((tmp_path / "study.json").read_text()) == {"study": "sequential", "state": "running"}
    findings = Findings("It holds.", {"x": 1.0}, {"t": pa.table({"a": [1]})})
    write_findings(findings, tmp_path, name="sequential", settings={})
    assert json.loads((tmp_path / "study.json").read_text())["state"] == "finished"
    with pytest.raises(ResumeError, match="holds the study 'sequential', not 'taylor'"):
        begin_findings(tmp_path, "taylor")
