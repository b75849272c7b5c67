"""Say how training goes, one line per evaluation, read from the run's metrics.jsonl."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cpl_ray.metrics_log import Record, Tail

POLL_S = 0.5


@contextmanager
def training_progress(metrics: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Print a line for every evaluation that the workers record while the block runs, also those before a resume.

    And one whenever the workers were started again: then the file is cut back to the last checkpoint.
    """
    stop = threading.Event()
    tail = Tail(metrics)
    last: dict[str, Record] = {}
    said: set[int] = set()
    cuts_expected = int(metrics.exists())  # a resume cuts the file of the attempt before it

    def show() -> None:
        nonlocal cuts_expected
        for record in tail.poll():
            if record.kind == "train" and record.step <= (last["train"].step if "train" in last else 0):
                if not cuts_expected:
                    say("a worker was lost; all were started again and go on from the last checkpoint")
                cuts_expected = 0
            last[record.kind] = record
            if record.kind == "eval" and record.step not in said:
                said.add(record.step)
                say(evaluation_line(record, last.get("train")))

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
    for name, label in (
        ("learned", "learned"),
        ("forgotten_validation", "forgotten (validation)"),
        ("forgotten_in_set", "forgotten (in-set)"),
    ):
        total = record.values.get(f"{name}_of")
        if total:
            parts.append(f"{label} {record.values[name]:.0f}/{total:.0f}")
    return " | ".join(parts)
