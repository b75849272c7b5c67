"""Say how training goes, read from the run's metrics.jsonl: a line per evaluation, or a live view on a terminal."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cpl_ray.metrics_log import Record, Tail
from pipelines.training_view import TrainingState
from pipelines.voice import Say, for_programs, live_view

POLL_S = 0.5
PROGRESS_S = 5.0
"""Seconds between two `progress` events."""
_COUNTED = (
    ("learned", "learned"),
    ("forgotten_validation", "forgotten (validation)"),
    ("forgotten_in_set", "forgotten (in-set)"),
)


@contextmanager
def training_progress(metrics: Path, say: Say, planned: int) -> Iterator[None]:
    """Tell of every evaluation that the workers record while the block runs, also of those before a resume.

    And whenever the workers were started again: then the file is cut back to the last checkpoint. On a terminal a live
    view takes the place of the lines.

    Args:
        metrics: the run's metrics.jsonl, which need not exist yet.
        say: told of evaluations, and of the newest update every few seconds (for programs only).
        planned: updates after which training ends at the latest.
    """
    with live_view(say) as view:
        stop = threading.Event()
        tail = Tail(metrics)
        state = TrainingState(planned)
        said: set[int] = set()
        cuts_expected = int(metrics.exists())  # a resume cuts the file of the attempt before it
        progress_at = time.monotonic()

        def show() -> None:
            nonlocal cuts_expected, progress_at
            for record in tail.poll():
                if record.kind == "train" and record.step <= state.step:
                    if not cuts_expected:
                        message = "a worker was lost; all were started again and go on from the last checkpoint"
                        say(message, event="restarted", step=record.step - 1)
                    cuts_expected = 0
                state.add(record)
                if record.kind == "eval" and record.step not in said:
                    said.add(record.step)
                    if view is None or not view.shown:
                        say(evaluation_line(record, state.train), event="evaluation", **_fields(record))
            if view is not None:
                view.update(state)
            elif state.train is not None and for_programs(say) and time.monotonic() >= progress_at + PROGRESS_S:
                progress_at = time.monotonic()
                say("", event="progress", planned_steps=planned, **_fields(state.train))

        def follow() -> None:
            while not stop.wait(POLL_S):
                show()

        thread = threading.Thread(target=follow, name="cpl-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            state.ended = True
            show()


def evaluation_line(record: Record, train: Record | None) -> str:
    """Describe an evaluation and the last update before it in one line."""
    parts = [f"update {record.step:>5}"]
    if train is not None:
        values = train.values
        parts.append(f"loss I {values['loss_injection']:.3f}")
        if "loss_mastered" in values:
            parts.append(f"M {values['loss_mastered']:.3f}")
        if "collaborative_share" in values:
            parts.append(f"collaborative {values['collaborative_share']:.3f}")
    for name, label in _COUNTED:
        total = record.values.get(f"{name}_of")
        if total:
            parts.append(f"{label} {record.values[name]:.0f}/{total:.0f}")
    return " | ".join(parts)


def _fields(record: Record) -> dict[str, float]:
    """Return a record's numbers as fields of an event; counts as whole numbers."""
    counts = {name for label, _ in _COUNTED for name in (label, f"{label}_of")}
    return {"step": record.step} | {
        name: int(value) if name in counts else value for name, value in record.values.items()
    }
