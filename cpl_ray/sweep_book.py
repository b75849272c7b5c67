"""The book of a sweep: which points there are, what became of their trials, and which is next: `sweep.json`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cpl_ray.choice import SIZE_KEY, by_size, choose, pareto_front, smallest_inside, summarise_points
from cpl_ray.config import Config
from cpl_ray.proposals import Outcome, Proposer
from cpl_ray.trial_book import TrialBook
from cpl_ray.trials import ENDED, SWEEP_FILE, Trial


class SweepBook(TrialBook):
    """The trials of a sweep: every point with every seed.

    Args:
        folder: the sweep's folder.
        config: the sweep's configuration.
        concurrency: trials at once; the size of a generation of `optuna` follows from it.
        resume: go on with the book that is in the folder.
    """

    page = SWEEP_FILE

    def __init__(self, folder: Path, config: Config, *, concurrency: int, resume: bool) -> None:
        saved = self.saved(folder, resume=resume)
        super().__init__(folder, config, saved)
        self.seeds = config.search.seeds or [config.train.seed]
        self._generation_size = saved.get("generation_size") or max(1, -(-concurrency // len(self.seeds)))
        self._proposer = Proposer(config, self._generation_size)
        self.write()

    @property
    def total(self) -> int:
        """Number of trials when all are named."""
        return self._proposer.num_points * len(self.seeds)

    @property
    def done(self) -> bool:
        """Whether no trial will follow those that are named and none of them waits."""
        return len(self.trials) >= self.total and all(trial.state != "pending" for trial in self.trials)

    def content(self) -> dict[str, Any]:
        """Return `sweep.json`: the trials, and all that follows from them."""
        search, budget = self.config.search, self.config.budget
        points = summarise_points(self.trials)
        front = {one.point_id for one in pareto_front(points)}
        best, reason = choose(points, budget)
        sizes = by_size(points, budget) if any(SIZE_KEY in trial.point for trial in self.trials) else []
        return {
            "sweep": self.folder.name,
            "model": self.config.model,
            "rule": self.config.train.rule,
            "state": self.state,
            "started": self.started,
            "algorithm": self._proposer.algorithm,
            "generation_size": self._generation_size,
            "planned_trials": self.total,
            "space": search.space,
            "seeds": self.seeds,
            "objectives": search.objectives,
            "early_stopping": search.early_stopping,
            "budget": {"max_forgetting": budget.max_forgetting, "min_learned": budget.min_learned},
            "trials": [trial.to_dict() for trial in self.trials],
            "points": [one.to_dict(pareto=one.point_id in front) for one in points],
            "pareto": sorted(front),
            "best": None if best is None else {"point_id": best.point_id, "reason": reason},
            "reason": reason,
            "by_size": [
                {
                    "mastered_size": one.mastered_size,
                    "mastered_sha256": one.trials[0].mastered_sha256,
                    "point_id": one.point_id,
                    "learned": one.learned.to_dict(),
                    "forgotten": {part: rate.to_dict() for part, rate in one.forgotten.items()},
                    "inside": one.inside(budget),
                }
                for one in sizes
            ],
            "smallest_mastered_set": smallest_inside(sizes, budget),
        }

    def _name_more(self) -> None:
        """Name the next generation of points, if the outcomes of all earlier ones are known."""
        if len(self.trials) >= self.total:
            return
        if any(trial.state == "running" for trial in self.trials) and self._proposer.algorithm == "optuna":
            return
        earlier = self._outcomes()
        for point_id, point in enumerate(self._proposer.generation(earlier), start=len(earlier)):
            for seed in self.seeds:
                self.trials.append(Trial(len(self.trials), point_id, point, seed))

    def _outcomes(self) -> list[Outcome]:
        outcomes = []
        for start in range(0, len(self.trials), len(self.seeds)):
            own = self.trials[start : start + len(self.seeds)]
            known = all(trial.state in ENDED and trial.learned.of for trial in own)
            values = {
                "learned": _mean([trial.learned.share for trial in own]),
                "forgotten": _mean([trial.forgotten["validation"].share for trial in own]),
            }
            outcomes.append(Outcome(own[0].point, values if known else None))
        return outcomes


def _mean(shares: Sequence[float | None]) -> float:
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if known else 0.0
