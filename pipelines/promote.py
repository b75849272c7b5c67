"""`cpl promote`: the release gate."""

from typing import Any

from cpl_ray.config import Config
from cpl_ray.rundir import RunDir
from pipelines.console import AsJson, ConfigPath, Outcome, Overrides, Quiet, Say, Verbose, run_stage


def promote(
    config: ConfigPath,
    overrides: Overrides = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Judge the run's registered model; make it champion if it is within the budget and no worse than the present one.

    Needs run.name of a registered run. Exit code 2: refused, no alias was moved, the reasons are in result.json.
    Exit code 1: nothing was judged or moved, e.g. another promotion was faster.
    """
    outcome = Outcome("promote", as_json, verbose, quiet)
    run_stage(outcome, config, overrides, RunDir.open, _stage)


def _stage(config: Config, run: RunDir, say: Say) -> dict[str, Any]:
    from pipelines.stages import promote as stage

    return stage(config, run, say)
