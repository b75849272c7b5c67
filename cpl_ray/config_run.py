"""The sections of the configuration that are not about data and training: cluster, run, tracking, gate, search."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from cpl_ray.config_types import MOST, PositiveInt, Processes, Section, Seed, Share

_OF_MLFLOW = ("mlartifacts", "mlruns")
_DATABASE = "mlflow.db"
"""With its journals; the default store lies in `run.dir`, beside the runs."""


def _not_of_mlflow(name: str) -> str:
    """Refuse names under which the default MLflow store lies: overwriting such a run would delete all models."""
    small = name.lower()  # some file systems do not tell A from a
    if small in _OF_MLFLOW or small.startswith(_DATABASE):
        raise ValueError(
            f"run.name: {name!r} is a place of MLflow's store in run.dir; choose a name other than "
            f"{', '.join(_OF_MLFLOW)} and {_DATABASE}…"
        )
    return name


_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"), AfterValidator(_not_of_mlflow)]


class ClusterConfig(Section):
    """What the run asks of Ray."""

    num_workers: Processes = 1
    """Training processes (one GPU each where GPUs are used)."""
    use_gpu: bool = False
    """Give each worker and each scoring process one GPU."""
    cpus_per_worker: Annotated[float, Field(gt=0, le=10_000)] = 1.0
    """CPUs reserved per worker."""
    max_failures: Annotated[int, Field(ge=-1, le=MOST)] = 2
    """Restarts of the worker group after a crash, from the last checkpoint, and of a trial that lost another process;
    -1: no limit."""
    timeout_s: Annotated[int, Field(ge=10, le=10**7)] = 1800
    """Seconds after which a hanging collective ends the attempt."""


class RunSection(Section):
    """Name and place of the run."""

    name: _Name | None = None
    """Name of the run folder; null: a new unique name. An existing name is refused unless `resume` or `overwrite`."""
    dir: str = "runs"
    """Folder of all runs; on several nodes a path that every node shares."""
    resume: bool = False
    """Continue the run of this name from its last checkpoint, bit for bit."""
    overwrite: bool = False
    """Delete a finished or broken run of this name first."""


class TrackingConfig(Section):
    """MLflow."""

    enabled: bool = True
    """Track the run and register its model."""
    uri: str | None = None
    """Tracking server; null: `MLFLOW_TRACKING_URI`, else an SQLite file `mlflow.db` in `run.dir`."""
    experiment: str = "cpl-ray"
    """Experiment name."""
    model_name: str = "cpl-model"
    """Registered model that `register` adds a version to."""


class BudgetConfig(Section):
    """What the gate allows; measured on items that training and choices never saw (docs/gate.md)."""

    max_forgetting: Share = 0.05
    """Largest allowed forgotten share of held-out mastered items (M test)."""
    min_learned: Share = 0.8
    """Smallest allowed learned share of the injection set."""
    rescore: bool = True
    """Ask the candidate again in other ways (noise floor) and the present champion on the same M test.

    False: judge by result.json alone, without a champion to beat; takes no model and no Ray."""
    alpha: Share = 0.05
    """Refuse a model that answers less of M test than the champion with an exact McNemar p below this."""


class SearchConfig(Section):
    """What `cpl sweep` tries. No effect on other verbs."""

    space: dict[str, Any] = {}
    """Keys to search: a list or `{grid: [...]}` (every value gets equally many points), `{choice: [...]}`,
    `{uniform: [low, high]}`, `{loguniform: [low, high]}`; two whole numbers make a range of whole numbers."""
    algorithm: Literal["auto", "grid", "random", "optuna"] = "auto"
    """`auto`: `grid` if the space holds grids only, else `optuna`."""
    trials: Annotated[int, Field(ge=1, le=100_000)] = 12
    """Points to try. No effect with `grid`, which tries every combination."""
    seeds: list[Seed] = []
    """Training seeds that every point is run with, for intervals; empty: `train.seed` alone."""
    objectives: list[Literal["learned", "forgotten"]] = ["learned", "forgotten"]
    """What `optuna` improves: the share learned (more), the share of M validation forgotten (less), or both."""
    early_stopping: bool = False
    """Stop trials that do worse than others after equally many evaluations (ASHA)."""
    grace_evaluations: PositiveInt = 2
    """Evaluations before a trial may be stopped early."""
    reduction_factor: Annotated[int, Field(ge=2, le=MOST)] = 3
    """Of so many trials one goes on at each rung of early stopping."""
    max_concurrent_trials: Processes | None = None
    """Trials at once; null: as many as the cluster has room for."""
    seed: Seed = 0
    """Seed of the sampled points."""
