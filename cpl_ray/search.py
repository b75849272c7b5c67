"""Ray Tune runs the trials of a sweep or comparison: it gives them room, stops them early, and tells what happened.

Which trials there are and what became of them is in the book (trial_book.py), not in Tune's own state: nothing that
Tune pickles is ever read again.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import ray
import ray.train
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from cpl_ray.atomic import atomic_write_text
from cpl_ray.config import Config
from cpl_ray.config_run import SearchConfig
from cpl_ray.errors import ConfigError, UserError
from cpl_ray.losses import lost
from cpl_ray.orphans import Orphans
from cpl_ray.shared_storage import Mark, marked, problem_here
from cpl_ray.trial_book import TrialBook
from cpl_ray.trials import Trial

Work = Callable[[int], None]
_PATIENCE_S = 30.0  # for the last processes of stopped trials to end
_NEVER = 10**9  # evaluations after which ASHA itself would end a trial: training ends before
# the driver of a trial only waits; without a CPU of its own it cannot take one from the workers
_DRIVER = {"CPU": 0.0, "memory": 1.0}


class Watcher(Protocol):
    """Is told what happens, in the driver's main thread."""

    def started(self, trial: Trial) -> None: ...
    def lost(self, trial: Trial) -> None: ...
    def evaluated(self, trial: Trial, record: Mapping[str, float]) -> None: ...
    def ended(self, trial: Trial) -> None: ...


class ScoreCallback(TuneReportCallback):
    """Passes each evaluation of a trial's training on to Tune, with the score by which early stopping ranks trials.

    The score is the share learned less the excess of validation forgetting over the budget, in budgets.
    """

    def __init__(self, max_forgetting: float) -> None:
        super().__init__()
        self._max_forgetting = max(max_forgetting, 1e-9)

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Pass on the record of rank 0."""
        record = metrics[0]
        super().after_report(run_context, [{**record, "score": self._score(record)}], checkpoint)

    def _score(self, record: Mapping[str, float]) -> float:
        learned = record["learned"] / max(1.0, record["learned_of"])
        forgotten = record["forgotten_validation"] / max(1.0, record["forgotten_validation_of"])
        return learned - max(0.0, forgotten / self._max_forgetting - 1.0)


class _FromBook(Searcher):
    """Hands Tune the trials that the book names."""

    def __init__(self, book: TrialBook) -> None:
        super().__init__()
        self._book = book

    def suggest(self, trial_id: str) -> Any:
        """Return the number of the next trial, None where one has to wait, or `FINISHED`."""
        trial = self._book.next()
        if trial is not None:
            return {"trial": trial.index}
        return Searcher.FINISHED if self._book.done else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: the book is kept by the callback."""

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the book is the state."""
        Path(checkpoint_path).write_text(f"the state of this search is in {self._book.page}\n", "utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""

    def get_state(self) -> dict[str, Any]:
        """Return nothing that would have to be kept."""
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "_FromBook":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (Searcher, ())  # Tune pickles its settings; nobody reads them


class _Keeper(TrialProgressCallback):
    """Keeps the book while Tune runs; in the place of Tune's own progress, which prints although it is told not to."""

    def __init__(self, book: TrialBook, watcher: Watcher) -> None:
        super().__init__()
        self._book, self._watcher = book, watcher
        self._orphans = Orphans()
        self._began: dict[int, float] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        index = trial.config["trial"]
        again = index in self._began
        self._began.setdefault(index, time.monotonic())
        if not again:
            self._watcher.started(self._book.trials[index])

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._watcher.lost(self._book.trials[trial.config["trial"]])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        record = {key: value for key, value in result.items() if isinstance(value, int | float)}
        self._watcher.evaluated(self._book.trials[trial.config["trial"]], record)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        index = trial.config["trial"]
        told = _error_file(self._book.folder, index)
        if told.is_file():
            self._failed(index, told.read_text("utf-8").strip())
        elif self._book.result_of(self._book.trials[index]) is None and not self._book.config.search.early_stopping:
            self._failed(index, "it ended without a result")
        else:
            self._watcher.ended(self._book.ended(index, self._seconds(index)))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        index = trial.config["trial"]
        self._failed(index, f"failed {trial.num_failures} times, the last with: {_last_line(trial.error_file)}")

    def _failed(self, index: int, error: str) -> None:
        self._watcher.ended(self._book.failed(index, self._seconds(index), error))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._orphans.release()

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        self._orphans.release_all(_PATIENCE_S)

    def _seconds(self, index: int) -> float:
        return round(time.monotonic() - self._began.get(index, time.monotonic()), 1)

    def __reduce__(self) -> tuple[Any, ...]:
        return (tune.Callback, ())


def concurrency_of(config: Config, asked: int | None, key: str) -> int:
    """Return how many trials may run at once: what was asked for, or as many as the cluster has room for.

    Args:
        config: its `cluster` section says what a trial takes.
        asked: trials at once; None: as many as fit.
        key: name of the key that asked.

    Raises:
        ConfigError: more are asked for than fit, or not even one fits.
    """
    cluster, slots = config.cluster, ray.cluster_resources()
    room = int(slots.get("CPU", 0.0) / (cluster.num_workers * cluster.cpus_per_worker) + 1e-9)
    has = f"{slots.get('CPU', 0.0):g} CPU slots"
    if cluster.use_gpu:
        room = min(room, int(slots.get("GPU", 0.0) / cluster.num_workers + 1e-9))
        has += f" and {slots.get('GPU', 0.0):g} GPUs"
    if room < 1:
        raise ConfigError(
            f"cluster.num_workers: a trial needs {cluster.num_workers} workers of {cluster.cpus_per_worker:g} CPUs"
            f"{' and a GPU each' if cluster.use_gpu else ''}; the cluster has {has}"
        )
    if asked is not None and asked > room:
        raise ConfigError(
            f"{key} is {asked}, but the cluster has {has}, room for {room} trials of "
            f"{cluster.num_workers} workers; ask for at most {room}, or leave it out"
        )
    return asked or room


def run_trials(book: TrialBook, work: Work, *, concurrency: int, watcher: Watcher) -> None:
    """Run all trials of the book that have not ended.

    Args:
        book: names the trials and keeps what becomes of them.
        work: does one trial, given its number, in a process of its own; an exception makes the trial a failed one.
            Where Ray lost a process the trial is done again, `cluster.max_failures` times.
        concurrency: trials at once.
        watcher: is told what happens.

    Raises:
        UserError: Tune itself failed.
    """
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C is handled as everywhere else
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # prints although it is told not to
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.3")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "3600")
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are told by the watcher
    remaining = book.at_most - len(book.ended_trials)
    if remaining <= 0 or book.done:
        return
    for left in book.folder.glob(".tune-*"):  # by a driver that was killed
        shutil.rmtree(left, ignore_errors=True)
    scratch, mark = book.folder / f".tune-{time.time_ns()}", Mark.of(book.folder)
    tuner = tune.Tuner(
        tune.with_resources(_driver(work, book.folder, mark), _DRIVER),
        tune_config=tune.TuneConfig(
            search_alg=_FromBook(book),
            scheduler=early_stopping(book.config.search),
            num_samples=remaining,
            max_concurrent_trials=concurrency,
            # its imports take longer than many a training; where a trial is stopped its process has to die with it
            reuse_actors=not book.config.search.early_stopping,
            trial_dirname_creator=lambda trial: f"{trial.config['trial']:03d}",
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(scratch),
            verbose=0,
            callbacks=[_Keeper(book, watcher)],
            failure_config=tune.FailureConfig(max_failures=book.config.cluster.max_failures),
        ),
    )
    try:
        with marked(mark):
            tuner.fit()
    except ray.exceptions.RayError as error:
        raise UserError(f"Ray Tune failed: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def early_stopping(search: SearchConfig) -> ASHAScheduler | None:
    """Return the scheduler that stops trials early (ASHA, Li et al. 2018), or None where none is asked for."""
    if not search.early_stopping:
        return None
    return ASHAScheduler(
        time_attr="evaluation",
        metric="score",
        mode="max",
        max_t=_NEVER,
        grace_period=search.grace_evaluations,
        reduction_factor=search.reduction_factor,
    )


def _driver(work: Work, folder: Path, mark: Mark) -> Callable[[dict[str, Any]], None]:
    """Return the function that Tune calls in a trial's own process, again if that or Ray Train's controller is lost."""

    def trial(config: dict[str, Any]) -> None:
        index = config["trial"]
        if problem := problem_here(mark):
            raise ConfigError(problem)  # Tune keeps it: a file of ours would lie where nobody sees it
        told = _error_file(folder, index)
        try:
            told.unlink(missing_ok=True)
            work(index)
        except Exception as error:  # told by name: whatever a trial dies of must not end the sweep
            if lost(error):
                raise
            try:
                told.parent.mkdir(parents=True, exist_ok=True)
                atomic_write_text(told, f"{type(error).__name__}: {error}\n")
            except OSError:  # the disk may be the very thing that failed
                raise error from None

    return trial


def _last_line(path: str | None) -> str:
    """Return the last line of what Tune wrote about a trial's failures."""
    lines = Path(path).read_text("utf-8", errors="replace").split("\n") if path and Path(path).is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "an unknown error")


def _error_file(folder: Path, index: int) -> Path:
    """Return the path at which a trial that fails by itself, and would again, says why."""
    return folder / "trials" / f"{index:03d}" / "error.txt"
