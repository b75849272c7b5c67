"""`cpl register`: hand the model to the registry."""

from typing import Any

from cpl_ray.config import Config
from cpl_ray.rundir import RunDir
from pipelines.console import AsJson, ConfigPath, Outcome, Overrides, Quiet, Say, Verbose, run_stage


def register(
    config: ConfigPath,
    overrides: Overrides = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Register the run's model in MLflow with the alias candidate.

    Needs run.name of an evaluated run.
    """
    outcome = Outcome("register", as_json, verbose, quiet)
    run_stage(outcome, config, overrides, RunDir.open, _stage)


def _stage(config: Config, run: RunDir, say: Say) -> dict[str, Any]:
    from pipelines.stages import register as stage

    return stage(config, run, say)
