"""What the driver of a sweep or comparison does while trials run: their MLflow runs, and telling the user."""

import json
import time
from collections.abc import Container, Mapping
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any

from cpl_ray.errors import TrackingError
from cpl_ray.mlflow_client import TrackedRun, abandon, running_runs
from cpl_ray.rundir import RunDir
from cpl_ray.tracking import Status, Tracker
from cpl_ray.trial_book import TrialBook, trial_config
from cpl_ray.trials import Trial
from pipelines.ages import duration
from pipelines.interrupts import signalled
from pipelines.stages import final_metrics
from pipelines.sweep_view import SweepState, about
from pipelines.voice import Say, for_programs, live_view

_OWED_S = 60.0
"""Seconds at the end for what a lost tracking server has not got of trials that ended meanwhile."""
_TOLD = ("step", "learned", "forgotten", "score")
_STATUS: dict[str, Status] = {
    "finished": "FINISHED",
    "failed": "FAILED",
    "stopped": "KILLED",
}


class SweepWatch:
    """Follows the trials of a book: one child run in MLflow each, closed truthfully; one line for each that ends.

    Args:
        book: names the trials.
        parent: tracker of the job's own MLflow run.
        say: prints a line.
        concurrency: trials at once, for the estimate of the time left.
    """

    def __init__(self, book: TrialBook, parent: Tracker, say: Say, concurrency: int) -> None:
        self._book, self._parent, self._say = book, parent, say
        self._trackers: dict[int, Tracker] = {}
        self._state = SweepState(book, concurrency)
        self._stack = ExitStack()
        self._owed: list[tuple[Tracker, Status]] = []

    def __enter__(self) -> "SweepWatch":
        self._view = self._stack.enter_context(live_view(self._say))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the MLflow runs of trials that were cut off; a resumed sweep opens them again."""
        self._stack.close()
        for tracker in self._trackers.values():
            tracker.log_tags({"cpl_ray.state": "interrupted"})
            tracker.finish("KILLED" if signalled(error) else "FAILED")
        self._trackers.clear()
        deadline = time.monotonic() + _OWED_S
        for tracker, status in self._owed:  # the server may have come back
            if (left := deadline - time.monotonic()) > 0:
                tracker.finish(status, timeout_s=left)

    def catch_up(self) -> None:
        """Close in MLflow what an earlier driver has left open: it was killed, or the server was lost to the end."""
        if not self._book.config.run.resume:
            return
        behind, parent = self._book.recovered, self._parent.run
        if parent is not None:  # else tracking is off, or there is nothing to ask
            known = {
                trial.index: TrackedRun.load(self._book.run_folder(trial), parent.uri) for trial in self._book.trials
            }
            children = [child for child in known.values() if child is not None]
            with suppress(TrackingError):  # told by the trackers
                running = running_runs(parent.uri, {parent.experiment_id, *(child.experiment_id for child in children)})
                behind = [
                    trial for trial in self._book.ended_trials if self._is_behind(trial, known[trial.index], running)
                ]
                below = {run_id for run_id, above in running.items() if above == parent.run_id}
                abandon(parent.uri, below - {child.run_id for child in children})  # no trial is going to use them
        for trial in behind:
            tracker = self._tracker(trial)
            self._close(trial, tracker)
            if tracker.lost is not None:  # the end of this job tries it again, the next one does the rest
                return

    def started(self, trial: Trial) -> None:
        """Open the trial's child run and follow its metrics."""
        if for_programs(self._say):
            self._say("", event="trial_started", **_about(trial))
        self._show()
        tracker = self._trackers[trial.index] = self._tracker(trial)
        tracker.follow(self._book.run_folder(trial) / "metrics.jsonl")

    def lost(self, trial: Trial) -> None:
        """Say that a trial begins again; its records are followed already."""
        self._say(f"trial {trial.name}: a process of it was lost; it goes on", event="trial_lost", **_about(trial))

    def evaluated(self, trial: Trial, record: Mapping[str, float]) -> None:
        """Note an evaluation during a trial's training."""
        self._state.evaluations[trial.index] = record
        if for_programs(self._say):
            known = {name: value for name, value in record.items() if name.split("_")[0] in _TOLD}
            self._say("", event="evaluation", **_about(trial), **known)
        self._show()

    def ended(self, trial: Trial) -> None:
        """Say how a trial ended and close its child run."""
        self._state.evaluations.pop(trial.index, None)
        if trial.seconds:
            self._state.seconds.append(trial.seconds)
        self._say(self._line(trial), event="trial_ended", **trial.to_dict())
        self._show()
        tracker = self._trackers.pop(trial.index, None) or self._tracker(trial)
        self._close(trial, tracker)

    def _show(self) -> None:
        if self._view is not None:
            self._view.update(self._state)

    def _tracker(self, trial: Trial) -> Tracker:
        """Return the tracker of a trial's child run, with its settings in it."""
        folder = self._book.run_folder(trial)
        folder.mkdir(parents=True, exist_ok=True)
        config = trial_config(self._book.folder, self._book.config, trial)
        resume = (folder / "tracking.json").exists()
        tracker = Tracker.open(config, folder, resume=resume, parent=self._parent)
        tracker.log_params(config.model_dump())
        kind = self._book.page.removesuffix(".json")
        tags = {f"cpl_ray.{kind}": self._book.folder.name, "cpl_ray.trial": trial.name, "cpl_ray.state": "running"}
        if trial.method is not None:
            tags["cpl_ray.method"] = trial.method
        tracker.log_tags({**tags, "cpl_ray.point": json.dumps(trial.point)})
        return tracker

    def _is_behind(self, trial: Trial, child: TrackedRun | None, running: Container[str]) -> bool:
        """Tell whether MLflow lacks something of an ended trial, and its folder is there to fill it from."""
        if trial in self._book.recovered:
            return True
        folder = self._book.run_folder(trial)
        files = (folder / "result.json", folder / "manifest.json") if trial.state == "finished" else (folder,)
        return all(path.exists() for path in files) and (child is None or child.run_id in running)

    def _close(self, trial: Trial, tracker: Tracker) -> None:
        folder = self._book.run_folder(trial)
        tracker.follow(folder / "metrics.jsonl")
        if trial.state == "finished":
            run = RunDir(trial_config(self._book.folder, self._book.config, trial))
            result: dict[str, Any] = json.loads(run.result.read_text(encoding="utf-8"))
            tracker.log_datasets(json.loads(run.manifest.read_text(encoding="utf-8")), run.root)
            tracker.log_metrics(final_metrics(result), step=result["steps"])
            for path in (run.config, run.manifest, run.result, run.metrics, run.flips):
                tracker.log_artifacts(path)
        elif trial.state == "failed" and trial.error:
            tracker.log_tags({"cpl_ray.error": trial.error})
            tracker.log_artifacts(folder / "train" / "failure.txt")
        state = "stopped_early" if trial.state == "stopped" else trial.state
        tracker.log_tags({"cpl_ray.state": state})
        status = _STATUS.get(trial.state, "FAILED")
        tracker.finish(status)
        if tracker.lost is not None:
            self._owed.append((tracker, status))

    def _line(self, trial: Trial) -> str:
        said = [f"trial {trial.name} {trial.state:<8} {about(trial)} seed={trial.seed}"]
        if trial.state == "failed":
            said.append((trial.error or "").split("\n", 1)[0][:200])
        else:
            said.append(f"learned {trial.learned.count}/{trial.learned.of}")
            for part, label in (("validation", "forgotten (validation)"), ("held_out", "held-out")):
                rate = trial.forgotten[part]
                if rate.of:
                    said.append(f"{label} {rate.count}/{rate.of}")
        left, total = self._state.seconds_left(), self._book.total
        more = f", about {duration(left)} left" if left and self._state.ended < total else ""
        said.append(f"{self._state.ended} of {total}{more}")
        return " | ".join(said)


def _about(trial: Trial) -> dict[str, Any]:
    method = {} if trial.method is None else {"method": trial.method}
    return {"trial": trial.index, **method, "point": trial.point, "seed": trial.seed}
