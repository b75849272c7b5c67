"""The book of a sweep: its points do not depend on the order in which trials end, nor on interruptions."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from cpl_ray.config import Config
from cpl_ray.errors import DataError
from cpl_ray.loading import load_config
from cpl_ray.proposals import Outcome, Proposer
from cpl_ray.rundir import RunDir
from cpl_ray.sweep_book import SweepBook
from cpl_ray.trial_book import trial_config
from cpl_ray.trials import Trial, read_book

OPTUNA = {"optimizer.lr": {"loguniform": [1e-5, 1e-3]}, "train.refresh": {"choice": [1, 4, "epoch"]}}


def config(space: dict[str, Any], folder: Path, **search: Any) -> Config:
    return Config.model_validate(
        {"model": "m", "search": {"space": space, **search}, "run": {"dir": str(folder), "name": "sweep"}}
    )


def measure(book: SweepBook, trial: Trial) -> None:
    """Write the result.json of a trial: learned and forgotten are functions of its point."""
    rate = trial.point["optimizer.lr"]
    learned, forgotten = min(100, round(rate * 2e5)), min(100, round(rate * 6e4))

    def counted(count: int) -> dict[str, int]:
        return {"count": count, "of": 100}

    result = {
        "learned": counted(learned),
        "forgotten": {part: counted(forgotten) for part in ("held_out", "validation", "in_set")},
        "steps": 10,
        "mastered_size": 40,
        "mastered_sha256": "0" * 64,
    }
    (book.run_folder(trial) / "result.json").write_text(json.dumps(result))


def run_all(book: SweepBook, rng: random.Random, *, at_most: int = 10**6) -> int:
    """Do the trials as Tune would, several at once, ending in a random order; returns how many ended."""
    running: list[Trial] = []
    ended = 0
    while ended < at_most:
        while len(running) < 3 and (trial := book.next()) is not None:
            running.append(trial)
        if not running:
            assert book.done
            break
        trial = running.pop(rng.randrange(len(running)))
        measure(book, trial)
        book.ended(trial.index, seconds=1.0)
        ended += 1
    return ended


@pytest.mark.parametrize("space", [OPTUNA, {"optimizer.lr": [1e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 3e-3]}])
def test_the_same_points_whatever_ends_first_and_however_often_interrupted(
    space: dict[str, Any], tmp_path: Path
) -> None:
    books = []
    for number in range(3):
        rng = random.Random(number)
        made = config(space, tmp_path / str(number), trials=7, seeds=[1, 2])
        folder = tmp_path / str(number) / "sweep"
        folder.mkdir(parents=True)
        book = SweepBook(folder, made, concurrency=4, resume=False)
        while number and not book.done:  # interrupted after every fourth trial, in the middle of others
            run_all(book, rng, at_most=4)
            book = SweepBook(folder, made, concurrency=9, resume=True)
        run_all(book, rng)
        books.append(book.conclude("finished"))
    assert len(books[0]["trials"]) == 14
    assert len({json.dumps([one["point"] for one in book["points"]]) for book in books}) == 1
    assert len({json.dumps([book["pareto"], book["best"], book["points"]]) for book in books}) == 1


def test_optuna_learns_from_what_came_out(tmp_path: Path) -> None:
    """With one objective, later generations lie nearer the optimum than random ones do."""
    made = config({"optimizer.lr": {"loguniform": [1e-6, 1e-1]}}, tmp_path, trials=40, objectives=["learned"])
    proposer = Proposer(made, generation_size=4)
    outcomes: list[Outcome] = []
    while points := proposer.generation(outcomes):
        for point in points:
            distance = abs(point["optimizer.lr"] / 1e-3 - 1.0)
            outcomes.append(Outcome(point, {"learned": 1.0 / (1.0 + distance), "forgotten": 0.0}))
    assert len(outcomes) == 40

    def off(some: list[Outcome]) -> float:
        return sum(abs(math.log10(outcome.point["optimizer.lr"] / 1e-3)) for outcome in some) / len(some)

    assert off(outcomes[20:]) < 0.6 * off(outcomes[:10])


def test_failed_points_are_passed_over(tmp_path: Path) -> None:
    proposer = Proposer(config(OPTUNA, tmp_path, trials=12), generation_size=2)
    outcomes = [Outcome(point, None) for _ in range(3) for point in proposer.generation([])]
    assert len(proposer.generation(outcomes)) == 2


def test_states_are_told_apart(tmp_path: Path) -> None:
    made = config({"optimizer.lr": [1e-5, 1e-4, 1e-3]}, tmp_path)
    (tmp_path / "sweep").mkdir()
    book = SweepBook(tmp_path / "sweep", made, concurrency=1, resume=False)
    first, second = book.next(), book.next()
    assert first is not None
    assert second is not None
    assert book.next() is not None
    assert book.next() is None
    assert book.done
    measure(book, first)
    assert book.ended(0, 1.0).state == "finished"
    evaluation = {"kind": "eval", "step": 4, "time": 0, "learned": 3, "learned_of": 9}
    lines = [evaluation, {"kind": "train", "step": 5, "time": 0}]
    (book.run_folder(second) / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    stopped = book.ended(1, 1.0)
    assert (stopped.state, stopped.learned.count, stopped.learned.of, stopped.steps) == ("stopped", 3, 9, 4)
    assert book.failed(2, 1.0, "NonFiniteError: loss is nan").state == "failed"
    content = book.conclude("finished")
    assert [trial["state"] for trial in content["trials"]] == ["finished", "stopped", "failed"]
    assert [one["point_id"] for one in content["points"]] == [0]
    # a resumed sweep keeps the first two and tries the third again
    again = SweepBook(tmp_path / "sweep", made, concurrency=1, resume=True)
    retried = again.next()
    assert retried is not None
    assert (retried.index, retried.error, again.next()) == (2, None, None)


def test_a_trial_that_ended_unseen_is_recovered(tmp_path: Path) -> None:
    made = config({"optimizer.lr": [1e-5, 1e-4]}, tmp_path)
    (tmp_path / "sweep").mkdir()
    book = SweepBook(tmp_path / "sweep", made, concurrency=1, resume=False)
    trial = book.next()
    assert trial is not None
    measure(book, trial)
    again = SweepBook(tmp_path / "sweep", made, concurrency=1, resume=True)
    assert [(one.index, one.state) for one in again.recovered] == [(0, "finished")]
    assert [one.index for one in again.ended_trials] == [0]


def test_a_trial_is_an_ordinary_run(tmp_path: Path) -> None:
    made = config({"optimizer.lr": [1e-5, 1e-4]}, tmp_path, seeds=[7])
    (tmp_path / "sweep").mkdir()
    book = SweepBook(tmp_path / "sweep", made, concurrency=1, resume=False)
    trial = book.next()
    assert trial is not None
    saved = load_config(book.run_folder(trial) / "config.yaml")
    assert saved == trial_config(book.folder, made, trial)
    assert (saved.optimizer.lr, saved.train.seed, saved.run.name) == (1e-5, 7, "000")
    assert saved.data.assessment == str(book.folder)
    assert saved.search.space == {}
    assert RunDir(saved).root == book.run_folder(trial)


def test_a_damaged_book_is_named(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text('{"trials": [{"index": 0}]}')
    with pytest.raises(DataError, match=r"sweep\.json cannot be read as a record of trials"):
        read_book(tmp_path / "sweep.json")
