"""The trials of a sweep or comparison: what each tried and what came of it, as kept in its book."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cpl_ray.errors import DataError
from cpl_ray.measures import Rate

State = Literal["pending", "running", "finished", "stopped", "failed"]
FORGOTTEN = ("validation", "held_out", "in_set")
ENDED: tuple[State, ...] = ("finished", "stopped")
"""What a resumed job does not do again."""
NOTHING = Rate(0, 0)
SWEEP_FILE = "sweep.json"
COMPARE_FILE = "compare.json"


@dataclass(frozen=True)
class Trial:
    """One run of one point with one seed."""

    index: int
    point_id: int
    point: dict[str, Any]
    seed: int
    state: State = "pending"
    """`stopped`: early, because others did better; `failed`: with an error."""
    learned: Rate = NOTHING
    forgotten: dict[str, Rate] = field(default_factory=lambda: dict.fromkeys(FORGOTTEN, NOTHING))
    """Of a stopped trial: as of its last evaluation, nothing of M test."""
    steps: int | None = None
    seconds: float | None = None
    """Wall time of the trial."""
    mastered_size: int | None = None
    mastered_sha256: str | None = None
    error: str | None = None
    method: str | None = None
    """Name of the compared method; None in a sweep."""

    @property
    def name(self) -> str:
        """Name of the trial's run folder."""
        return f"{self.index:03d}"

    def measured(self, result: Mapping[str, Any]) -> "Trial":
        """Return the trial as finished, with the numbers of its result.json."""
        return replace(
            self,
            state="finished",
            learned=_rate(result["learned"]),
            forgotten={part: _rate(result["forgotten"][part]) for part in FORGOTTEN},
            steps=result["steps"],
            mastered_size=result["mastered_size"],
            mastered_sha256=result["mastered_sha256"],
            error=None,
        )

    def stopped(self, evaluation: Mapping[str, float], step: int) -> "Trial":
        """Return the trial as stopped early, with the counts of its last evaluation."""

        def rate(name: str) -> Rate:
            return Rate(int(evaluation.get(name, 0)), int(evaluation.get(f"{name}_of", 0)))

        forgotten = {part: rate(f"forgotten_{part}") for part in FORGOTTEN}
        return replace(self, state="stopped", learned=rate("learned"), forgotten=forgotten, steps=step, error=None)

    def to_dict(self) -> dict[str, Any]:
        """Return the trial for sweep.json; rates that are not known are null."""
        known = self.state in ENDED
        return {
            "index": self.index,
            **({} if self.method is None else {"method": self.method}),
            "point_id": self.point_id,
            "point": self.point,
            "seed": self.seed,
            "state": self.state,
            "run_dir": f"trials/{self.name}",
            "learned": self.learned.to_dict() if known else None,
            "forgotten": {p: r.to_dict() if r.of else None for p, r in self.forgotten.items()} if known else None,
            "steps": self.steps,
            "seconds": self.seconds,
            "mastered_size": self.mastered_size,
            "mastered_sha256": self.mastered_sha256,
            "error": self.error,
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "Trial":
        """Read back what `to_dict` wrote."""
        forgotten = saved["forgotten"] or {}
        return cls(
            index=saved["index"],
            point_id=saved["point_id"],
            point=dict(saved["point"]),
            seed=saved["seed"],
            state=saved["state"],
            learned=_rate(saved["learned"]),
            forgotten={part: _rate(forgotten.get(part)) for part in FORGOTTEN},
            steps=saved["steps"],
            seconds=saved["seconds"],
            mastered_size=saved["mastered_size"],
            mastered_sha256=saved["mastered_sha256"],
            error=saved["error"],
            method=saved.get("method"),
        )


def as_csv(trials: Sequence[Trial]) -> str:
    """Return the trials as a table: a row each, a column for every searched key and every count."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.point))
    counted = ("learned", *(f"forgotten_{part}" for part in FORGOTTEN))
    head = ["trial", "point", "seed", "state", *keys, *(name for one in counted for name in (one, f"{one}_of"))]
    sink = io.StringIO()
    table = csv.writer(sink, lineterminator="\n")
    table.writerow([*head, "updates", "seconds", "error"])
    for trial in trials:
        rates = (trial.learned, *(trial.forgotten[part] for part in FORGOTTEN))
        counts = [cell for rate in rates for cell in ((rate.count, rate.of) if rate.of else ("", ""))]
        about = [trial.index, trial.point_id, trial.seed, trial.state, *(trial.point.get(key, "") for key in keys)]
        table.writerow([*about, *counts, trial.steps, trial.seconds, trial.error])
    return sink.getvalue()


def read_book(path: Path) -> dict[str, Any]:
    """Read the page of a book of trials: `sweep.json` or `compare.json`.

    Raises:
        DataError: there is none, or it is damaged.
    """
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        [Trial.from_dict(trial) for trial in saved["trials"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read as a record of trials: {error}") from error
    return dict(saved)


def _rate(saved: Mapping[str, Any] | None) -> Rate:
    return NOTHING if saved is None else Rate(saved["count"], saved["of"])
