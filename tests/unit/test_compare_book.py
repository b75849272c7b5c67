"""The book of a comparison: generations, choices on validation, tables on M test, and going on after interruptions."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cpl_ray.compare_book import CompareBook
from cpl_ray.compare_text import as_csv, as_markdown, table_at_target, table_inside
from cpl_ray.config import Config
from cpl_ray.ledger import _SCHEMA, write_ledger
from cpl_ray.loading import load_config
from cpl_ray.measures import mcnemar_exact
from cpl_ray.report import render_report
from cpl_ray.trial_book import trial_config
from cpl_ray.trials import Trial

NUM_TEST = 40
RATES = [1e-4, 1e-3, 1e-2]


def config(folder: Path, **compare: Any) -> Config:
    settings = {"methods": ["cpl", "fine_tuning", "random_mask"], "rates": RATES, "seeds": [3, 4, 5], **compare}
    return Config.model_validate(
        {
            "model": "m",
            "data": {"items": "items.jsonl"},
            "train": {"stop_at_learned": 0.9},
            "compare": settings,
            "run": {"dir": str(folder), "name": "compare"},
        }
    )


def counted(count: int, of: int) -> dict[str, int]:
    return {"count": count, "of": of}


def forgotten_ids(trial: Trial) -> set[int]:
    """Return which items of M test a trial forgets: some by the method, more at higher rates, one by the seed."""
    level = RATES.index(trial.point["optimizer.lr"])
    methods = {"cpl": {0}, "fine_tuning": set(range(8)), "random_mask": {0, 1, 2}}
    return methods[str(trial.method)] | set(range(20, 20 + 2 * level)) | {30 + trial.seed}


def outcome(trial: Trial) -> dict[str, Any]:
    """Return the result.json of a trial: the lowest rate misses the target, the highest forgets most."""
    level = RATES.index(trial.point["optimizer.lr"])
    lost, test = 2 * level + (trial.method != "cpl"), len(forgotten_ids(trial))
    forgotten = {"held_out": counted(test, NUM_TEST), "validation": counted(lost, 30), "in_set": counted(0, 50)}
    # inside the budget the highest rate learns most, fine-tuning nothing at any rate
    inside = {"step": 4, "learned": counted(20 + 10 * level, 100), "forgotten": forgotten}
    return {
        "learned": counted((60, 92, 95)[level], 100),
        "forgotten": forgotten,
        "steps": 50 - 10 * level,
        "stopped_at_learned": level > 0,
        "collaborative_share": 0.4 + 0.1 * level if trial.method == "cpl" else None,
        "mastered_size": 50,
        "mastered_sha256": "0" * 64,
        "seconds_per_update": 0.5,
        "state_bytes_per_param": 9.0,
        "peak_memory_bytes": 1e9,
        "inside_budget": None if trial.method == "fine_tuning" else inside,
    }


def measure(book: CompareBook, trial: Trial) -> None:
    ids = forgotten_ids(trial)
    rows: list[Mapping[str, Any]] = [
        {"id": f"t{index}", "part": "mastered_test", "flip": "forgotten" if index in ids else "kept"}
        for index in range(NUM_TEST)
    ]
    rows += [
        {"id": "outside", "part": "mastered_test"},
        {"id": "v", "part": "mastered_validation", "flip": "forgotten"},
    ]
    full = [{"set": "mastered", "question": "?", "target": "!", **row} for row in rows]
    write_ledger(book.run_folder(trial) / "flips.parquet", pa.Table.from_pylist(full, schema=_SCHEMA))
    (book.run_folder(trial) / "result.json").write_text(json.dumps(outcome(trial)))


def run_all(book: CompareBook, rng: random.Random, *, at_most: int = 10**6) -> None:
    """Do the trials as Tune would, three at once, ending in a random order."""
    running: list[Trial] = []
    for _ in range(at_most):
        while len(running) < 3 and (trial := book.next()) is not None:
            running.append(trial)
        if not running:
            assert book.done
            return
        trial = running.pop(rng.randrange(len(running)))
        measure(book, trial)
        book.ended(trial.index, seconds=1.0)


@pytest.fixture
def finished(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "compare").mkdir()
    book = CompareBook(tmp_path / "compare", config(tmp_path), resume=False)
    run_all(book, random.Random(0))
    return book.conclude("finished")


def row(content: Mapping[str, Any], method: str) -> dict[str, Any]:
    return next(one for one in content["methods"] if one["method"] == method)


def test_generations(tmp_path: Path) -> None:
    (tmp_path / "compare").mkdir()
    book = CompareBook(tmp_path / "compare", config(tmp_path), resume=False)
    first = [book.next() for _ in range(6)]
    assert all(trial is not None and trial.seed == 3 for trial in first)
    assert book.next() is None  # what follows depends on these
    assert not book.done
    for trial in first:
        assert trial is not None
        measure(book, trial)
        book.ended(trial.index, 1.0)
    second = []
    while (trial := book.next()) is not None:
        second.append(trial)
        assert len(second) < 20
    # random_mask has the share that cpl had at its chosen rate, which is 1e-3 (the lowest misses the target)
    masked = [trial for trial in second if trial.method == "random_mask"]
    assert [trial.point["optimizer.lr"] for trial in masked] == RATES
    assert {trial.point["method.density"] for trial in masked} == {0.5}
    assert {trial.seed for trial in masked} == {3}
    # cpl: at equal learning 1e-3, inside the budget 1e-2, each with the seeds that are left
    others = [(trial.point["optimizer.lr"], trial.seed) for trial in second if trial.method == "cpl"]
    assert others == [(1e-3, 4), (1e-3, 5), (1e-2, 4), (1e-2, 5)]
    # fine-tuning was inside nowhere: of equal rates the one that forgot least
    assert {trial.point["optimizer.lr"] for trial in second if trial.method == "fine_tuning"} == {1e-3, 1e-4}


def test_the_same_book_whatever_ends_first_and_however_often_interrupted(tmp_path: Path) -> None:
    pages = []
    for number in range(3):
        made = config(tmp_path / str(number))
        folder = tmp_path / str(number) / "compare"
        folder.mkdir(parents=True)
        book = CompareBook(folder, made, resume=False)
        rng = random.Random(number)
        while number and not book.done:  # interrupted after every fourth trial, in the middle of others
            run_all(book, rng, at_most=4)
            book = CompareBook(folder, made, resume=True)
        run_all(book, rng)
        pages.append(book.conclude("finished"))
        assert book.total == len(book.trials) <= book.at_most
    assert len({json.dumps([page["trials"], page["methods"], page["verdicts"]]) for page in pages}) == 1


def test_tables_are_pooled_over_seeds_and_of_m_test(finished: dict[str, Any]) -> None:
    cpl, tuned = row(finished, "cpl"), row(finished, "fine_tuning")
    assert (cpl["at_target"]["lr"], cpl["at_target"]["seeds"]) == (1e-3, [3, 4, 5])
    held_out = cpl["at_target"]["forgotten"]["held_out"]
    assert (held_out["count"], held_out["of"]) == (3 * 4, 3 * NUM_TEST)
    assert held_out["low"] < 0.1 < held_out["high"]
    assert cpl["at_target"]["held_out_per_seed"] == [4, 4, 4]
    assert cpl["at_target"]["learned"]["count"] == 3 * 92
    # fine-tuning forgets items 1 to 7 besides, with each of three seeds: 21 discordant pairs, all on one side
    assert tuned["mcnemar"]["only_second"] == 21
    assert tuned["mcnemar"]["only_first"] == 0
    assert tuned["mcnemar"]["mcnemar_p"] == mcnemar_exact(0, 21)
    assert cpl["mcnemar"] is None
    assert [one["method"] for one in finished["methods"]] == ["cpl", "random_mask", "fine_tuning"]
    assert cpl["inside"]["lr"] == 1e-2
    assert cpl["inside"]["learned_per_seed"] == [40, 40, 40]
    assert (tuned["inside"]["learned"]["count"], tuned["inside"]["learned"]["of"]) == (0, 300)
    assert tuned["inside"]["updates"] == [None, None, None]


def test_verdicts_tell_what_is_shown_and_what_is_not(finished: dict[str, Any]) -> None:
    said = {sentence.split()[0]: sentence for sentence in finished["verdicts"]}
    assert "forgets more than cpl: held-out 33 of 120 against 12 of 120" in said["fine_tuning"]
    assert "random_mask forgets more than cpl" in said["random_mask"]
    assert said["inside"].endswith("cpl learns as much as the best rival, random_mask: 120 of 300 against 120 of 300")


def test_a_rival_that_is_not_worse_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "compare").mkdir()
    made = config(tmp_path, methods=["fine_tuning", {"cpl": {}}], rates=RATES[1:], seeds=[1])
    book = CompareBook(tmp_path / "compare", made, resume=False)
    for method, level in (("fine_tuning", 0), ("fine_tuning", 1), ("cpl", 0), ("cpl", 1)):
        trial = book.next()
        assert trial is not None
        assert trial.method == method
        other = "cpl" if method == "fine_tuning" else "fine_tuning"  # each is given the numbers of the other
        faked = Trial(trial.index, 0, {"optimizer.lr": RATES[level + 1]}, 1, method=other)
        measure(book, faked)
        book.ended(trial.index, 1.0)
    content = book.conclude("finished")
    assert content["verdicts"][0].startswith("fine_tuning is not worse: it forgets less than cpl")
    assert content["methods"][0]["method"] == "fine_tuning"


def test_failed_trials_are_passed_over_and_tried_again(tmp_path: Path) -> None:
    (tmp_path / "compare").mkdir()
    made = config(tmp_path, methods=["fine_tuning", "cpl", "random_mask"], seeds=[3, 4])
    book = CompareBook(tmp_path / "compare", made, resume=False)
    rng = random.Random(0)
    while not book.done:
        trial = book.next()
        assert trial is not None
        if trial.method == "cpl":
            book.failed(trial.index, 1.0, "NonFiniteError: loss is nan")
        else:
            measure(book, trial)
            book.ended(trial.index, 1.0)
    content = book.conclude("finished")
    assert row(content, "cpl")["at_target"] is None
    assert row(content, "cpl")["failed"] == [3, 4, 5]
    assert row(content, "fine_tuning")["mcnemar"] is None
    assert not any(trial["method"] == "random_mask" for trial in content["trials"])  # its density is not known
    assert content["verdicts"] == []
    assert "failed (3 trials)" in as_markdown(content)
    again = CompareBook(tmp_path / "compare", made, resume=True)
    run_all(again, rng)
    after = again.conclude("finished")
    assert row(after, "cpl")["at_target"]["seeds"] == [3, 4]
    assert row(after, "random_mask")["settings"]["method.density"] == 0.5


def test_a_trial_is_an_ordinary_run(tmp_path: Path) -> None:
    (tmp_path / "compare").mkdir()
    made = config(tmp_path)
    book = CompareBook(tmp_path / "compare", made, resume=False)
    trial = book.next()
    assert trial is not None
    saved = load_config(book.run_folder(trial) / "config.yaml")
    assert saved == trial_config(book.folder, made, trial)
    assert (saved.train.rule, saved.optimizer.lr, saved.train.seed, saved.compare) == (
        "cpl",
        1e-4,
        3,
        Config(model="m").compare,
    )


def test_tables_as_text(finished: dict[str, Any]) -> None:
    for columns, rows in (table_at_target(finished), table_inside(finished)):
        assert len(rows) == 3
        assert {len(cells) for cells in rows} == {len(columns)}
    lines = as_csv(finished).splitlines()
    assert len({len(line.split(",")) for line in lines}) == 1
    assert [line.split(",")[0] for line in lines[1:]] == ["cpl", "random_mask", "fine_tuning"]
    text = as_markdown(finished)
    assert "| cpl | 0.001 | 276 of 300 (92.0 %) | 12 of 120 (10.0 %) |" in text


def test_the_report_shows_both_tables(finished: dict[str, Any], tmp_path: Path) -> None:
    page = render_report(tmp_path / "compare")
    assert "12 of 120 (10.0 %)" in page
    assert "random_mask forgets more than cpl" in page
    assert page.count("<svg") == 2
