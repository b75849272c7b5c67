"""What the driver of a sweep does while trials run: their MLflow runs, and telling the user."""

import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal

from cpl_ray.rundir import RunDir
from cpl_ray.sweep_book import SweepBook, trial_config
from cpl_ray.tracking import Tracker
from cpl_ray.trials import Trial
from pipelines.console import Say
from pipelines.stages import final_metrics

_STATUS: dict[str, Literal["FINISHED", "FAILED", "KILLED"]] = {
    "finished": "FINISHED",
    "failed": "FAILED",
    "stopped": "KILLED",
}


class SweepWatch:
    """Follows the trials of a sweep: one child run in MLflow each, closed truthfully; one line for each that ends.

    Args:
        book: the sweep's trials.
        parent: tracker of the sweep's own MLflow run.
        say: prints a line.
        concurrency: trials at once, for the estimate of the time left.
    """

    def __init__(self, book: SweepBook, parent: Tracker, say: Say, concurrency: int) -> None:
        self._book, self._parent, self._say, self._concurrency = book, parent, say, concurrency
        self._trackers: dict[int, Tracker] = {}
        self._seconds: list[float] = []

    def __enter__(self) -> "SweepWatch":
        for trial in self._book.recovered:
            self._close(trial, self._tracker(trial))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the MLflow runs of trials that were cut off; a resumed sweep opens them again."""
        for tracker in self._trackers.values():
            tracker.log_tags({"cpl_ray.state": "interrupted"})
            tracker.finish("KILLED" if kind is KeyboardInterrupt else "FAILED")
        self._trackers.clear()

    def started(self, trial: Trial) -> None:
        """Open the trial's child run and follow its metrics."""
        tracker = self._trackers[trial.index] = self._tracker(trial)
        tracker.follow(self._book.run_folder(trial) / "metrics.jsonl")

    def evaluated(self, trial: Trial, record: Mapping[str, float]) -> None:
        """Note an evaluation during a trial's training."""

    def ended(self, trial: Trial) -> None:
        """Say how a trial ended and close its child run."""
        self._say(self._line(trial))
        tracker = self._trackers.pop(trial.index, None) or self._tracker(trial)
        self._close(trial, tracker)

    def _tracker(self, trial: Trial) -> Tracker:
        """Return the tracker of a trial's child run, with its settings in it."""
        folder = self._book.run_folder(trial)
        folder.mkdir(parents=True, exist_ok=True)
        config = trial_config(self._book.folder, self._book.config, trial)
        resume = (folder / "tracking.json").exists()
        tracker = Tracker.open(config, folder, resume=resume, parent=self._parent)
        tracker.log_params(config.model_dump())
        tags = {"cpl_ray.sweep": self._book.folder.name, "cpl_ray.trial": trial.name, "cpl_ray.state": "running"}
        tracker.log_tags({**tags, "cpl_ray.point": json.dumps(trial.point)})
        return tracker

    def _close(self, trial: Trial, tracker: Tracker) -> None:
        folder = self._book.run_folder(trial)
        if trial.state == "finished":
            run = RunDir(trial_config(self._book.folder, self._book.config, trial))
            result: dict[str, Any] = json.loads(run.result.read_text(encoding="utf-8"))
            tracker.follow(run.metrics)
            tracker.log_datasets(json.loads(run.manifest.read_text(encoding="utf-8")), run.root)
            tracker.log_metrics(final_metrics(result), step=result["steps"])
            for path in (run.config, run.manifest, run.result, run.metrics, run.flips, run.figures):
                tracker.log_artifacts(path)
        elif trial.state == "failed" and trial.error:
            tracker.log_tags({"cpl_ray.error": trial.error})
            tracker.log_artifacts(folder / "train" / "failure.txt")
        state = "stopped_early" if trial.state == "stopped" else trial.state
        tracker.log_tags({"cpl_ray.state": state})
        tracker.finish(_STATUS.get(trial.state, "FAILED"))

    def _line(self, trial: Trial) -> str:
        if trial.seconds:
            self._seconds.append(trial.seconds)
        ended = sum(one.state in ("finished", "stopped", "failed") for one in self._book.trials)
        point = " ".join(f"{key}={_shown(value)}" for key, value in trial.point.items())
        said = [f"trial {trial.name} {trial.state:<8} {point} seed={trial.seed}"]
        if trial.state == "failed":
            said.append((trial.error or "").split("\n", 1)[0][:200])
        else:
            said.append(f"learned {trial.learned.count}/{trial.learned.of}")
            for part, label in (("validation", "forgotten (validation)"), ("held_out", "held-out")):
                rate = trial.forgotten[part]
                if rate.of:
                    said.append(f"{label} {rate.count}/{rate.of}")
        left = self._book.total - ended
        if left and self._seconds:
            minutes = sum(self._seconds) / len(self._seconds) * left / self._concurrency / 60
            said.append(
                f"{ended} of {self._book.total}, about {minutes:.0f} min left" if minutes >= 1 else f"{left} left"
            )
        else:
            said.append(f"{ended} of {self._book.total}")
        return " | ".join(said)


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
