"""`cpl run`: the whole job, from questions to a registered candidate."""

from typing import Any

from cpl_ray.config import Config
from cpl_ray.rundir import RunDir
from pipelines.console import AsJson, ConfigPath, Outcome, Overrides, Quiet, Say, Verbose, run_stage


def run(
    config: ConfigPath,
    overrides: Overrides = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Assess, train, evaluate and register as candidate, in this order.

    With gate=true the model is judged for champion at the end, as `cpl promote` does (exit code 2 if refused).
    After an interruption the same command with run.resume=true continues; what is finished is not done again.
    """
    outcome = Outcome("run", as_json, verbose, quiet)
    run_stage(outcome, config, overrides, RunDir.create, _stage, resumable=True)


def _stage(config: Config, run: RunDir, say: Say) -> dict[str, Any]:
    from pipelines import STARTED
    from pipelines.stages import run as stage

    return stage(config, run, say, started=STARTED)
