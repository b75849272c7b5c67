"""What the live view shows of a training: pure, from the newest records of metrics.jsonl."""

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cpl_ray.metrics_log import Record
from pipelines.ages import duration

if TYPE_CHECKING:
    from rich.console import RenderableType

_BAR_WIDTH = 40
_PACE_UPDATES = 50
"""Updates over which the pace is measured."""


@dataclass
class TrainingState:
    """What is known of a training so far."""

    planned: int
    """Updates after which it ends at the latest."""
    train: Record | None = None
    """The newest update."""
    evaluation: Record | None = None
    """The newest evaluation."""
    mastered_loss: float | None = None
    """Of the newest update that captured g_M."""
    ended: bool = False
    _pace: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_PACE_UPDATES))

    @property
    def step(self) -> int:
        """Updates done."""
        return self.train.step if self.train is not None else 0

    def add(self, record: Record) -> None:
        """Take in the next record of the file."""
        if record.kind == "eval":
            self.evaluation = record
            return
        if record.kind != "train":
            return
        if record.step <= self.step:  # cut back to a checkpoint: the time lost is not the pace
            self._pace.clear()
        self.train = record
        self.mastered_loss = record.values.get("loss_mastered", self.mastered_loss)
        self._pace.append((record.step, record.time))

    def __rich__(self) -> "RenderableType":
        """Return the picture; drawn by Rich when it is shown, so that no mistake in it can reach the training."""
        return training_view(self)

    def seconds_left(self) -> float | None:
        """Return the time that the remaining updates take at the latest pace, evaluations included; None: unknown."""
        if len(self._pace) < 2:
            return None
        (first, began), (last, now) = self._pace[0], self._pace[-1]
        return (self.planned - last) * max(0.0, now - began) / max(1, last - first)


def training_view(state: TrainingState) -> "RenderableType":
    """Return the picture of a training: bar, losses, what the rule does, what was learned and forgotten."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    head = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=max(1, state.planned), completed=min(state.step, state.planned), width=_BAR_WIDTH)
    head.add_row(Text("training"), bar, Text(f"update {state.step} of {state.planned}"), Text(_time_left(state)))
    grid = Table.grid(padding=(0, 2))
    for label, text in _rows(state):
        grid.add_row(Text(label, style="dim"), Text(text))
    return Group(head, grid)


def _rows(state: TrainingState) -> list[tuple[str, str]]:
    values = state.train.values if state.train is not None else {}
    losses = [("injection", values.get("loss_injection")), ("mastered", state.mastered_loss)]
    shares = [("collaborative", values.get("collaborative_share")), ("flip rate", values.get("flip_rate"))]
    speed = values.get("tokens_per_s")
    rows = [
        ("loss", _joined(losses)),
        ("rule", _joined(shares)),
        ("speed", "" if speed is None else f"{speed:,.0f} tokens/s"),
    ]
    if state.evaluation is not None:
        counts = [
            ("learned", "learned"),
            ("forgotten (validation)", "forgotten_validation"),
            ("in-set", "forgotten_in_set"),
        ]
        parts = [text for label, name in counts if (text := _count(state.evaluation, label, name))]
        rows.append((f"at {state.evaluation.step}", ", ".join(parts)))
    return [(label, text) for label, text in rows if text]


def _joined(numbers: list[tuple[str, float | None]]) -> str:
    return ", ".join(f"{label} {value:.3f}" for label, value in numbers if value is not None)


def _count(record: Record, label: str, name: str) -> str:
    total = record.values.get(f"{name}_of")
    return f"{label} {record.values.get(name, 0.0):.0f} of {total:.0f}" if total else ""


def _time_left(state: TrainingState) -> str:
    if state.ended:
        return ""
    left = state.seconds_left()
    if left is None:
        return "starting" if state.train is None else ""
    return f"at most {duration(left)} left"
