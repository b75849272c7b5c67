"""Where the wall time of a run goes: phases, one after the other, and how much of each the model computed.

Whatever is not the model's computing is overhead: starting processes, loading, reading, writing, waiting.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Phase:
    """One named part of a run; phases of the same name are one."""

    name: str
    wall_s: float = 0.0
    """Seconds inside this phase and in none that was entered from it."""
    model_s: float = 0.0
    """Seconds of them in which the model computed: of the process that computed longest."""


@dataclass
class Stopwatch:
    """Divides the time since `started` among phases; the time in none of them is the first phase's."""

    first: str
    started: float = field(default_factory=time.monotonic)
    """On the clock of `time.monotonic`."""

    def __post_init__(self) -> None:
        """Enter the first phase."""
        self._phases = {self.first: Phase(self.first)}
        self._stack = [self._phases[self.first]]
        self._since = self.started

    @property
    def phases(self) -> list[Phase]:
        """All phases up to now, in the order in which they were first entered."""
        self._settle()
        return list(self._phases.values())

    @property
    def wall_s(self) -> float:
        """Seconds since the start."""
        return sum(phase.wall_s for phase in self.phases)

    @property
    def model_s(self) -> float:
        """Seconds in which the model computed."""
        return sum(phase.model_s for phase in self._phases.values())

    def to_dict(self) -> dict[str, Any]:
        """Return all of it: `wall_s`, `model_s`, `overhead_s` and the `phases`, in seconds."""
        phases = [asdict(phase) | {"overhead_s": phase.wall_s - phase.model_s} for phase in self.phases]
        rounded = [{key: round(v, 3) if isinstance(v, float) else v for key, v in one.items()} for one in phases]
        totals = {"wall_s": self.wall_s, "model_s": self.model_s, "overhead_s": self.wall_s - self.model_s}
        return {name: round(value, 3) for name, value in totals.items()} | {"phases": rounded}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the block's time as this phase's and not as that of the phase it is in."""
        self._settle()
        self._stack.append(self._named(name))
        try:
            yield
        finally:
            self._settle()
            self._stack.pop()

    def computed(self, seconds: float) -> None:
        """Note that in the present phase the model computed for so long."""
        self._stack[-1].model_s += seconds

    def carve(self, name: str, seconds: float, *, model: bool = False) -> None:
        """Take seconds that were measured elsewhere out of the present phase; `model`: the model computed in them."""
        self._settle()
        part = self._named(name)
        self._stack[-1].wall_s -= seconds
        part.wall_s += seconds
        part.model_s += seconds if model else 0.0

    def _named(self, name: str) -> Phase:
        return self._phases.setdefault(name, Phase(name))

    def _settle(self) -> None:
        now = time.monotonic()
        self._stack[-1].wall_s += now - self._since
        self._since = now


_running: ContextVar[Stopwatch | None] = ContextVar("stopwatch", default=None)


@contextmanager
def measured(stopwatch: Stopwatch) -> Iterator[Stopwatch]:
    """Let `phase`, `computed` and `carve` in the block be about this stopwatch."""
    token = _running.set(stopwatch)
    try:
        yield stopwatch
    finally:
        _running.reset(token)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Count the block's time as this phase's, if a stopwatch runs."""
    running = _running.get()
    if running is None:
        yield
        return
    with running.phase(name):
        yield


def computed(seconds: float) -> None:
    """Note that in the present phase the model computed for so long, if a stopwatch runs."""
    if (running := _running.get()) is not None:
        running.computed(seconds)


def carve(name: str, seconds: float, *, model: bool = False) -> None:
    """Take seconds that were measured elsewhere out of the present phase, if a stopwatch runs."""
    if (running := _running.get()) is not None:
        running.carve(name, seconds, model=model)
