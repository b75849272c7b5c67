"""`cpl evaluate`: measure what was learned and what was forgotten."""

from typing import Any

from cpl_ray.config import Config
from cpl_ray.rundir import RunDir
from pipelines.console import AsJson, ConfigPath, Outcome, Overrides, Quiet, Say, Verbose, run_stage


def evaluate(
    config: ConfigPath,
    overrides: Overrides = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Ask the trained model all questions again: learned and forgotten, held-out first.

    Needs run.name of a trained run. Writes result.json, flips.parquet, figures/, report.html and the model card.
    """
    outcome = Outcome("evaluate", as_json, verbose, quiet)
    run_stage(outcome, config, overrides, RunDir.open, _stage)


def _stage(config: Config, run: RunDir, say: Say) -> dict[str, Any]:
    from pipelines.stages import evaluate as stage

    return stage(config, run, say)
