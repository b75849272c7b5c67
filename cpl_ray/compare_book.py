"""The book of a comparison: methods by rates with the first seed, the chosen rates with the others: `compare.json`.

Generations: every method is tuned; then chosen rates meet the other seeds, and methods that take CPL's density are
tuned; then theirs follow. A generation is named when the one before has ended, so that nothing depends on timing.
"""

from pathlib import Path
from typing import Any

from cpl_ray.compare_choice import Measured, best_at_target, best_inside
from cpl_ray.compare_rows import Forgotten, at_target_row, in_order, inside_row, paired, verdicts
from cpl_ray.config import Config
from cpl_ray.contenders import DENSITY, Contender, contenders, reference_of
from cpl_ray.ledger import read_ledger
from cpl_ray.trial_book import TrialBook
from cpl_ray.trials import COMPARE_FILE, Trial

_RESULT = ("stopped_at_learned", "seconds_per_update", "state_bytes_per_param", "peak_memory_bytes", "inside_budget")


class CompareBook(TrialBook):
    """The trials of a comparison.

    Args:
        folder: the comparison's folder.
        config: its configuration.
        resume: go on with the book that is in the folder.
    """

    page = COMPARE_FILE

    def __init__(self, folder: Path, config: Config, *, resume: bool) -> None:
        self.contenders = contenders(config)
        self.reference = reference_of(self.contenders)
        self.seeds = config.compare.seeds or [config.train.seed]
        self._results: dict[int, dict[str, Any]] = {}  # of finished trials: they change no more
        self._flips: dict[int, dict[str, bool]] = {}
        super().__init__(folder, config, self.saved(folder, resume=resume))
        self.write()

    @property
    def total(self) -> int:
        """Number of trials when all are named; two rates may yet be chosen of a method that is still tuned."""
        others = len(self.seeds) - 1
        return sum(len(one.rates) + others * len(self._chosen_rates(one) or [one.rates[0]]) for one in self.contenders)

    @property
    def at_most(self) -> int:
        """Number of trials if every rate were chosen."""
        return len(self.seeds) * sum(len(one.rates) for one in self.contenders)

    @property
    def done(self) -> bool:
        """Whether all trials have ended and none follows from them."""
        return all(trial.state not in ("pending", "running") for trial in self.trials) and not self._missing()

    def content(self) -> dict[str, Any]:
        """Return `compare.json`: the trials, and the tables that follow from them."""
        budget = self.config.budget
        rows = in_order([self._row(one) for one in self.contenders])
        return {
            "comparison": self.folder.name,
            "model": self.config.model,
            "state": self.state,
            "started": self.started,
            "planned_trials": self.total,
            "target": self.config.train.stop_at_learned,
            "budget": {"max_forgetting": budget.max_forgetting},
            "rates": self.config.compare.rates,
            "seeds": self.seeds,
            "reference": self.reference,
            "trials": [self._with_result(trial) for trial in self.trials],
            "methods": rows,
            "verdicts": verdicts(rows, self.reference, budget.max_forgetting),
        }

    def _name_more(self) -> None:
        if any(trial.state == "running" for trial in self.trials):
            return
        for one, rate, seed in self._missing():
            point_id = self._first_point(one) + one.rates.index(rate)
            point = one.point(rate, self._density(one))
            self.trials.append(Trial(len(self.trials), point_id, point, seed, method=one.name))

    def _missing(self) -> list[tuple[Contender, float, int]]:
        """Return the trials that follow from what is known and are not named yet."""
        named = {(trial.point_id, trial.seed) for trial in self.trials}
        wanted = [
            (one, rate, self.seeds[0])
            for one in self.contenders
            if one.density_of is None or self._density(one) is not None
            for rate in one.rates
        ]
        wanted += [
            (one, rate, seed) for one in self.contenders for rate in self._chosen_rates(one) for seed in self.seeds[1:]
        ]
        return [key for key in wanted if (self._first_point(key[0]) + key[0].rates.index(key[1]), key[2]) not in named]

    def _first_point(self, one: Contender) -> int:
        """Return the number of the first point of a method: points are the rates of all methods in order."""
        return sum(len(other.rates) for other in self.contenders[: self.contenders.index(one)])

    def _chosen_rates(self, one: Contender) -> list[float]:
        """Return the rates of both choices; empty while the method is tuned, or where no trial of it was measured."""
        tuning = [trial for trial in self._of(one) if trial.seed == self.seeds[0]]
        if len(tuning) < len(one.rates) or any(trial.state in ("pending", "running") for trial in tuning):
            return []
        tries = self._tries(one)
        chosen = (best_at_target(tries)[0], best_inside(tries))
        return list(dict.fromkeys(best.rate for best in chosen if best is not None))

    def _density(self, one: Contender) -> float | None:
        """Return the collaborative share of the tuned run that a method takes its density from; None: not known."""
        source = next((other for other in self.contenders if other.name == one.density_of), None)
        if source is None or not self._chosen_rates(source):
            return None
        best, _ = best_at_target(self._tries(source))
        share: float | None = None if best is None else best.result["collaborative_share"]
        return share

    def _of(self, one: Contender) -> list[Trial]:
        return [trial for trial in self.trials if trial.method == one.name]

    def _tries(self, one: Contender) -> list[Measured]:
        """Return the measured trials of a method with the tuning seed."""
        return [found for found in map(self._measured, self._of(one)) if found and found.trial.seed == self.seeds[0]]

    def _measured(self, trial: Trial) -> Measured | None:
        if trial.state != "finished":
            return None
        if trial.index not in self._results:
            result = self.result_of(trial)
            if result is None:
                return None
            self._results[trial.index] = result
        return Measured(trial, self._results[trial.index])

    def _runs(self, one: Contender, best: Measured) -> list[Measured]:
        """Return the measured trials of a chosen rate, in order of the seeds."""
        found = [run for run in map(self._measured, self._of(one)) if run is not None and run.rate == best.rate]
        return sorted(found, key=lambda run: self.seeds.index(run.trial.seed))

    def _row(self, one: Contender) -> dict[str, Any]:
        tries = self._tries(one)
        best, reason = best_at_target(tries)
        inside = best_inside(tries)
        density = one.overrides.get(DENSITY) if one.density_of is None else self._density(one)
        return {
            "method": one.name,
            "is_rule": one.is_rule,
            "settings": one.overrides | ({} if density is None else {DENSITY: density}),
            "rates": list(one.rates),
            "own_rates": one.own_rates,
            "reason": reason,
            "at_target": None if best is None else at_target_row(self._runs(one, best)),
            "mcnemar": None if best is None else self._test(one, best),
            "inside": None if inside is None else inside_row(self._runs(one, inside)),
            "failed": [trial.index for trial in self._of(one) if trial.state == "failed"],
        }

    def _test(self, one: Contender, best: Measured) -> dict[str, Any] | None:
        """Return the paired table against the reference on M test (first = reference); None for the reference."""
        reference = next((other for other in self.contenders if other.name == self.reference), None)
        if reference is None or one is reference:
            return None
        other, _ = best_at_target(self._tries(reference))
        if other is None:
            return None
        table = paired(self._forgotten(reference, other), self._forgotten(one, best))
        return None if table is None else table.to_dict()

    def _forgotten(self, one: Contender, best: Measured) -> Forgotten:
        return {run.trial.seed: self._flips_of(run.trial) for run in self._runs(one, best)}

    def _flips_of(self, trial: Trial) -> dict[str, bool]:
        if trial.index not in self._flips:
            table = read_ledger(self.run_folder(trial) / "flips.parquet").select(["id", "part", "flip"])
            self._flips[trial.index] = {
                row["id"]: row["flip"] == "forgotten"
                for row in table.to_pylist()
                if row["part"] == "mastered_test" and row["flip"] is not None
            }
        return self._flips[trial.index]

    def _with_result(self, trial: Trial) -> dict[str, Any]:
        measured = self._measured(trial)
        return trial.to_dict() | {name: measured.result.get(name) if measured else None for name in _RESULT}
