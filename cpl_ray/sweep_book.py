"""The book of a sweep: which trials there are, what became of each, and which is next. Its page is `sweep.json`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from cpl_ray.atomic import atomic_write_text
from cpl_ray.choice import SIZE_KEY, by_size, choose, pareto_front, smallest_inside, summarise_points
from cpl_ray.config import Config
from cpl_ray.lock import release
from cpl_ray.metrics_log import read_records
from cpl_ray.proposals import Outcome, Proposer
from cpl_ray.rundir import RunDir
from cpl_ray.space import with_point
from cpl_ray.trials import ENDED, SWEEP_FILE, Trial, read_sweep

SweepState = Literal["running", "finished", "interrupted"]


class SweepBook:
    """Names trials, notes what became of them and writes it down, whole, at every change.

    Args:
        folder: the sweep's folder.
        config: the sweep's configuration.
        concurrency: trials at once; the size of a generation of `optuna` follows from it.
        resume: go on with the book that is in the folder: ended trials stay as they are, others are run again (from
            their checkpoint).
    """

    def __init__(self, folder: Path, config: Config, *, concurrency: int, resume: bool) -> None:
        self.folder, self.config = folder, config
        self.seeds = config.search.seeds or [config.train.seed]
        saved: Mapping[str, Any] = read_sweep(folder) if resume and (folder / SWEEP_FILE).exists() else {}
        self._started = saved.get("started") or datetime.now(UTC).isoformat(timespec="seconds")
        self._generation_size = saved.get("generation_size") or max(1, -(-concurrency // len(self.seeds)))
        self._proposer = Proposer(config, self._generation_size)
        self.state: SweepState = "running"
        before = [Trial.from_dict(trial) for trial in saved.get("trials", ())]
        self.trials = [self._after_interruption(trial) for trial in before]
        self.recovered = [
            now for was, now in zip(before, self.trials, strict=True) if now.state in ENDED and was.state not in ENDED
        ]
        """Trials that ended while nobody was there to write it down."""
        self.write()

    @property
    def total(self) -> int:
        """Number of trials when all are named."""
        return self._proposer.num_points * len(self.seeds)

    @property
    def done(self) -> bool:
        """Whether no trial will follow those that are named and none of them waits."""
        return len(self.trials) >= self.total and all(trial.state != "pending" for trial in self.trials)

    @property
    def ended_trials(self) -> list[Trial]:
        """The trials that are not done again."""
        return [trial for trial in self.trials if trial.state in ENDED]

    def next(self) -> Trial | None:
        """Return the next trial, which then counts as running; None where one has to wait, or all is done."""
        pending = next((trial for trial in self.trials if trial.state == "pending"), None)
        if pending is None and len(self.trials) < self.total:
            pending = self._named()
        if pending is None:
            return None
        self._make_folder(pending)
        return self.note(replace(pending, state="running", error=None))

    def note(self, trial: Trial) -> Trial:
        """Write down a trial's new state and return it."""
        self.trials[trial.index] = trial
        self.write()
        return trial

    def ended(self, index: int, seconds: float) -> Trial:
        """Note a trial that has ended without an error: finished if it was measured, else stopped early."""
        trial = replace(self.trials[index], seconds=seconds)
        result = self._result(trial)
        if result is not None:
            return self.note(trial.measured(result))
        evaluations = read_records(self.run_folder(trial) / "metrics.jsonl", "eval")
        last = evaluations[-1] if evaluations else None
        return self.note(trial.stopped(last.values if last else {}, last.step if last else 0))

    def failed(self, index: int, seconds: float, error: str) -> Trial:
        """Note a trial that has failed."""
        return self.note(replace(self.trials[index], state="failed", seconds=seconds, error=error))

    def run_folder(self, trial: Trial) -> Path:
        """Return the run folder of a trial."""
        return self.folder / "trials" / trial.name

    def conclude(self, state: SweepState) -> dict[str, Any]:
        """Write the book's last page for now and return it."""
        self.state = state
        return self.write()

    def write(self) -> dict[str, Any]:
        """Write `sweep.json` with all that follows from the trials, and return its content."""
        search, budget = self.config.search, self.config.budget
        points = summarise_points(self.trials)
        front = {one.point_id for one in pareto_front(points)}
        best, reason = choose(points, budget)
        sizes = by_size(points, budget) if any(SIZE_KEY in trial.point for trial in self.trials) else []
        content = {
            "sweep": self.folder.name,
            "model": self.config.model,
            "rule": self.config.train.rule,
            "state": self.state,
            "started": self._started,
            "algorithm": self._proposer.algorithm,
            "generation_size": self._generation_size,
            "planned_trials": self.total,
            "space": search.space,
            "seeds": self.seeds,
            "objectives": search.objectives,
            "early_stopping": search.early_stopping,
            "budget": {"max_forgetting": budget.max_forgetting, "min_learned": budget.min_learned},
            "trials": [trial.to_dict() for trial in self.trials],
            "points": [one.to_dict(pareto=one.point_id in front) for one in points],
            "pareto": sorted(front),
            "best": None if best is None else {"point_id": best.point_id, "reason": reason},
            "reason": reason,
            "by_size": [
                {
                    "mastered_size": one.mastered_size,
                    "mastered_sha256": one.trials[0].mastered_sha256,
                    "point_id": one.point_id,
                    "learned": one.learned.to_dict(),
                    "forgotten": {part: rate.to_dict() for part, rate in one.forgotten.items()},
                    "inside": one.inside(budget),
                }
                for one in sizes
            ],
            "smallest_mastered_set": smallest_inside(sizes, budget),
        }
        atomic_write_text(self.folder / SWEEP_FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        return content

    def _make_folder(self, trial: Trial) -> None:
        """Make the trial's run folder, with its configuration in it, unless an earlier attempt has."""
        config = trial_config(self.folder, self.config, trial)
        if not (self.run_folder(trial) / "config.yaml").exists():
            release(RunDir.create(config).root)

    def _named(self) -> Trial | None:
        """Name the next generation of points, if the outcomes of all earlier ones are known; return its first trial."""
        if any(trial.state in ("pending", "running") for trial in self.trials) and self._proposer.algorithm == "optuna":
            return None
        earlier = self._outcomes()
        for point_id, point in enumerate(self._proposer.generation(earlier), start=len(earlier)):
            for seed in self.seeds:
                self.trials.append(Trial(len(self.trials), point_id, point, seed))
        return next((trial for trial in self.trials if trial.state == "pending"), None)

    def _outcomes(self) -> list[Outcome]:
        outcomes = []
        for start in range(0, len(self.trials), len(self.seeds)):
            own = self.trials[start : start + len(self.seeds)]
            known = all(trial.state in ENDED and trial.learned.of for trial in own)
            values = {
                "learned": _mean([trial.learned.share for trial in own]),
                "forgotten": _mean([trial.forgotten["validation"].share for trial in own]),
            }
            outcomes.append(Outcome(own[0].point, values if known else None))
        return outcomes

    def _after_interruption(self, trial: Trial) -> Trial:
        """Return what a resumed sweep makes of a trial as it was written down."""
        if trial.state in ENDED:
            return trial
        result = self._result(trial)  # it may have ended without anybody left to write it down
        return trial.measured(result) if result is not None else replace(trial, state="pending")

    def _result(self, trial: Trial) -> dict[str, Any] | None:
        path = self.run_folder(trial) / "result.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def trial_config(folder: Path, sweep: Config, trial: Trial) -> Config:
    """Return the configuration of a trial: an ordinary run in the sweep's folder, on the sweep's assessment."""
    config = with_point(sweep, trial.point)
    run = {"name": trial.name, "dir": str(folder / "trials"), "resume": False, "overwrite": False}
    return config.model_copy(
        update={
            "train": config.train.model_copy(update={"seed": trial.seed}),
            "data": config.data.model_copy(update={"assessment": str(folder)}),
            "search": type(config.search)(),
            "run": config.run.model_copy(update=run),
            "gate": False,
        }
    )


def _mean(shares: Sequence[float | None]) -> float:
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if known else 0.0
