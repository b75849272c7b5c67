"""What the books of a sweep and of a comparison share: trials, what became of each, and a page written whole.

A book is the only state of a job of many trials: whoever resumes it reads the page and the folders of the trials.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal

from cpl_ray.atomic import atomic_write_text
from cpl_ray.config import Config
from cpl_ray.lock import release
from cpl_ray.metrics_log import read_records
from cpl_ray.rundir import RunDir
from cpl_ray.space import with_point
from cpl_ray.trials import ENDED, Trial, read_book

BookState = Literal["running", "finished", "interrupted"]


class TrialBook(ABC):
    """Names trials, notes what became of them and writes it down, whole, at every change.

    Args:
        folder: the job's folder.
        config: the job's configuration.
        saved: the page to go on with, empty for a new book: ended trials stay as they are, others are run again (from
            their checkpoint).
    """

    page: ClassVar[str]
    """Name of the file that the book is written to."""

    def __init__(self, folder: Path, config: Config, saved: Mapping[str, Any]) -> None:
        self.folder, self.config = folder, config
        self.started: str = saved.get("started") or datetime.now(UTC).isoformat(timespec="seconds")
        self.state: BookState = "running"
        before = [Trial.from_dict(trial) for trial in saved.get("trials", ())]
        self.trials = [self._after_interruption(trial) for trial in before]
        self.recovered = [
            now for was, now in zip(before, self.trials, strict=True) if now.state in ENDED and was.state not in ENDED
        ]
        """Trials that ended while nobody was there to write it down."""

    @classmethod
    def saved(cls, folder: Path, *, resume: bool) -> dict[str, Any]:
        """Return the page to go on with; empty where a new book begins."""
        path = folder / cls.page
        return read_book(path) if resume and path.exists() else {}

    @property
    @abstractmethod
    def total(self) -> int:
        """Number of trials when all are named, as far as it is known."""

    @property
    def at_most(self) -> int:
        """Number of trials that there can be."""
        return self.total

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether no trial will follow those that are named and none of them waits."""

    @abstractmethod
    def content(self) -> dict[str, Any]:
        """Return the page: all that follows from the trials."""

    @abstractmethod
    def _name_more(self) -> None:
        """Append the trials that follow from the outcomes known so far, if there are any."""

    @property
    def ended_trials(self) -> list[Trial]:
        """The trials that are not done again."""
        return [trial for trial in self.trials if trial.state in ENDED]

    def next(self) -> Trial | None:
        """Return the next trial, which then counts as running; None where one has to wait, or all is done."""
        if self._pending() is None:
            self._name_more()
        trial = self._pending()
        if trial is None:
            return None
        self._make_folder(trial)
        return self.note(replace(trial, state="running", error=None))

    def note(self, trial: Trial) -> Trial:
        """Write down a trial's new state and return it."""
        self.trials[trial.index] = trial
        self.write()
        return trial

    def ended(self, index: int, seconds: float) -> Trial:
        """Note a trial that has ended without an error: finished if it was measured, else stopped early."""
        trial = replace(self.trials[index], seconds=seconds)
        result = self.result_of(trial)
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

    def result_of(self, trial: Trial) -> dict[str, Any] | None:
        """Return the result.json of a trial, None before it was measured."""
        path = self.run_folder(trial) / "result.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def conclude(self, state: BookState) -> dict[str, Any]:
        """Write the book's last page for now and return it."""
        self.state = state
        return self.write()

    def write(self) -> dict[str, Any]:
        """Write the page and return its content."""
        content = self.content()
        atomic_write_text(self.folder / self.page, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        return content

    def _pending(self) -> Trial | None:
        return next((trial for trial in self.trials if trial.state == "pending"), None)

    def _make_folder(self, trial: Trial) -> None:
        """Make the trial's run folder, with its configuration in it, unless an earlier attempt has."""
        config = trial_config(self.folder, self.config, trial)
        if not (self.run_folder(trial) / "config.yaml").exists():
            release(RunDir.create(config).root)

    def _after_interruption(self, trial: Trial) -> Trial:
        """Return what a resumed job makes of a trial as it was written down."""
        if trial.state in ENDED:
            return trial
        result = self.result_of(trial)  # it may have ended without anybody left to write it down
        return trial.measured(result) if result is not None else replace(trial, state="pending")


def trial_config(folder: Path, job: Config, trial: Trial) -> Config:
    """Return the configuration of a trial: an ordinary run in the job's folder, on the job's assessment."""
    config = with_point(job, trial.point)
    run = {"name": trial.name, "dir": str(folder / "trials"), "resume": False, "overwrite": False}
    return config.model_copy(
        update={
            "train": config.train.model_copy(update={"seed": trial.seed}),
            "data": config.data.model_copy(update={"assessment": str(folder)}),
            "search": type(config.search)(),
            "compare": type(config.compare)(),
            "run": config.run.model_copy(update=run),
            "gate": False,
        }
    )
