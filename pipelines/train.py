"""`cpl train`: inject what the model does not know."""

from typing import Any

from cpl_ray.config import Config
from cpl_ray.rundir import MEASURED, TRAINED, RunDir
from pipelines.console import AsJson, ConfigPath, Outcome, Overrides, Quiet, Say, Verbose, run_stage


def train(
    config: ConfigPath,
    overrides: Overrides = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Train the injection set by the rule, without forgetting the mastered set.

    Works on the run's assessment, on data.assessment, or on brought sets (data.mastered and data.injection).
    Writes model/ and metrics.jsonl into the run folder.
    """
    outcome = Outcome("train", as_json, verbose, quiet)
    run_stage(outcome, config, overrides, _enter, _stage, resumable=True)


def _enter(config: Config) -> RunDir:
    return RunDir.enter(config, writes=TRAINED, outdates=MEASURED)


def _stage(config: Config, run: RunDir, say: Say) -> dict[str, Any]:
    from pipelines.stages import train as stage

    return stage(config, run, say)
