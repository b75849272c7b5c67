"""Which points a sweep tries next: a pure function of the search settings and of how earlier points came out.

Nothing depends on which trial happened to end first, so that a sweep that was interrupted goes on as it would have.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cpl_ray.config import Config
from cpl_ray.space import Dimension, Point, algorithm_of, dimensions, grid_points, random_point

_MIN_RANDOM, _MAX_RANDOM = 4, 10
_DIRECTIONS: dict[str, Any] = {"learned": "maximize", "forgotten": "minimize"}


@dataclass(frozen=True)
class Outcome:
    """How an earlier point came out."""

    point: Point
    values: dict[str, float] | None
    """Mean shares `learned` and `forgotten` (M validation) over its trials; None where one of them failed."""


class Proposer:
    """Names the points of a sweep, in generations.

    Points of one generation know only the outcomes of earlier generations. Grid and random search need no outcomes
    and have a single generation.

    Args:
        config: its `search` section is followed.
        generation_size: points per generation of `optuna`; part of what the points depend on.
    """

    def __init__(self, config: Config, generation_size: int) -> None:
        self._search = config.search
        self._dimensions = dimensions(config)
        self._generation_size = generation_size
        self.algorithm = algorithm_of(config.search, self._dimensions)
        self.num_points = len(grid_points(self._dimensions)) if self.algorithm == "grid" else config.search.trials

    def generation(self, earlier: Sequence[Outcome]) -> list[Point]:
        """Return the points that follow the earlier ones; empty when all have been named.

        Args:
            earlier: the outcomes of all points of earlier generations, in order.
        """
        first = len(earlier)
        if self.algorithm == "grid":
            return grid_points(self._dimensions)[first:]
        if self.algorithm == "random":
            return [random_point(self._dimensions, index, self._search.seed) for index in range(first, self.num_points)]
        return self._by_optuna(earlier, min(self._generation_size, self.num_points - first))

    def _by_optuna(self, earlier: Sequence[Outcome], size: int) -> list[Point]:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        objectives: list[str] = list(dict.fromkeys(self._search.objectives)) or list(_DIRECTIONS)
        seed = hashlib.sha256(f"{self._search.seed}/{len(earlier)}".encode()).digest()
        sampler = optuna.samplers.TPESampler(
            seed=int.from_bytes(seed[:4], "big"),
            n_startup_trials=min(_MAX_RANDOM, max(_MIN_RANDOM, self.num_points // 3)),
        )
        study = optuna.create_study(directions=[_DIRECTIONS[name] for name in objectives], sampler=sampler)
        distributions = {one.key: _distribution(one) for one in self._dimensions}
        for outcome in earlier:
            values = None if outcome.values is None else [outcome.values[name] for name in objectives]
            state = optuna.trial.TrialState.FAIL if values is None else optuna.trial.TrialState.COMPLETE
            params = {one.key: _encoded(one, outcome.point[one.key]) for one in self._dimensions}
            study.add_trial(
                optuna.trial.create_trial(params=params, distributions=distributions, values=values, state=state)
            )
        grids = grid_points(self._dimensions)
        points = []
        for index in range(len(earlier), len(earlier) + size):
            fixed = grids[index % len(grids)]
            study.enqueue_trial(
                {one.key: _encoded(one, fixed[one.key]) for one in self._dimensions if one.key in fixed}
            )
            asked = study.ask(distributions).params
            points.append({one.key: _decoded(one, asked[one.key]) for one in self._dimensions})
        return points


def _distribution(one: Dimension) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if one.kind in ("grid", "choice"):
        return CategoricalDistribution(tuple(range(len(one.values))))  # by number: a value may be a list
    low, high = one.values
    kind: Any = IntDistribution if one.whole else FloatDistribution
    return kind(low, high, log=one.kind == "loguniform")


def _encoded(one: Dimension, value: Any) -> Any:
    return one.values.index(value) if one.kind in ("grid", "choice") else value


def _decoded(one: Dimension, value: Any) -> Any:
    return one.values[value] if one.kind in ("grid", "choice") else value
