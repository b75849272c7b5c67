"""What the live view shows of a sweep or comparison: a bar, the time left, the trials that run, and the best so far."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cpl_ray.choice import choose, describe, pareto_front, summarise_points
from cpl_ray.contenders import RATE
from cpl_ray.trial_book import TrialBook
from cpl_ray.trials import Trial
from pipelines.ages import duration

if TYPE_CHECKING:
    from rich.console import RenderableType

_BAR_WIDTH = 40
_SHOWN_FRONT = 6


@dataclass
class SweepState:
    """What is known of a sweep so far."""

    book: TrialBook
    concurrency: int
    evaluations: dict[int, Mapping[str, float]] = field(default_factory=dict)
    """The newest evaluation of each trial that runs."""
    seconds: list[float] = field(default_factory=list)
    """Wall time of the trials that ended in this session."""

    def counts(self) -> dict[str, int]:
        """Return how many trials ended in each way."""
        states = [trial.state for trial in self.book.trials]
        return {state: states.count(state) for state in ("finished", "stopped", "failed") if state in states}

    @property
    def ended(self) -> int:
        """Trials that ended, in whatever way."""
        return sum(self.counts().values())

    def seconds_left(self) -> float | None:
        """Return the time that the other trials take at the mean of those that ended; None: unknown."""
        if not self.seconds:
            return None
        return sum(self.seconds) / len(self.seconds) * (self.book.total - self.ended) / self.concurrency

    def __rich__(self) -> "RenderableType":
        """Return the picture, drawn by Rich when it is shown."""
        return sweep_view(self)


def sweep_view(state: SweepState) -> "RenderableType":
    """Return the picture of a sweep."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    left = state.seconds_left()
    head = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=max(1, state.book.total), completed=state.ended, width=_BAR_WIDTH)
    ended = ", ".join(f"{count} {how}" for how, count in state.counts().items())
    time_left = "" if left is None or state.ended == state.book.total else f"about {duration(left)} left"
    head.add_row(
        Text("trials"), bar, Text(f"{state.ended} of {state.book.total}"), Text(ended, style="dim"), Text(time_left)
    )
    running = Table("running", "settings", "update", "learned", "forgotten (validation)", box=None, padding=(0, 2))
    for trial in state.book.trials:
        if trial.state == "running":
            running.add_row(*map(Text, _row(trial, state.evaluations.get(trial.index, {}))))
    points = summarise_points(state.book.trials)
    best, _ = choose(points, state.book.config.budget)
    front = Table("front", "settings", "what it did", box=None, padding=(0, 2))
    for one in pareto_front(points)[:_SHOWN_FRONT]:
        mark = f"{one.point_id} *" if best is not None and one.point_id == best.point_id else str(one.point_id)
        front.add_row(*map(Text, (mark, about(one.trials[0]), describe(one))))
    return Group(head, *([running] if running.row_count else []), *([front] if front.row_count else []))


def about(trial: Trial) -> str:
    """Return what a trial tries: the method and its rate in a comparison, the point in a sweep."""
    if trial.method is None:
        return settings(trial.point)
    return f"{trial.method} {settings({RATE: trial.point[RATE]})}"


def settings(point: Mapping[str, Any]) -> str:
    """Return a point in one line."""
    return " ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in point.items()
    )


def _row(trial: Trial, record: Mapping[str, float]) -> tuple[str, ...]:
    def count(name: str) -> str:
        of = record.get(f"{name}_of")
        return f"{record[name]:.0f} of {of:.0f}" if of else ""

    seeded = f"{about(trial)} seed={trial.seed}"
    update = f"{record['step']:.0f}" if "step" in record else "starting"
    return trial.name, seeded, update, count("learned"), count("forgotten_validation")
