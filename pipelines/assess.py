"""`cpl assess`: find what the model has mastered."""

from typing import Any

from cpl_ray.config import Config
from cpl_ray.rundir import MEASURED, TRAINED, RunDir
from pipelines.console import AsJson, ConfigPath, Outcome, Overrides, Quiet, Say, Verbose, run_stage


def assess(
    config: ConfigPath,
    overrides: Overrides = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Ask the model every question, and split the items into mastered and to be injected.

    Writes assessment/ and manifest.json into the run folder; rows that cannot be read go to rejected.jsonl.
    """
    outcome = Outcome("assess", as_json, verbose, quiet)
    run_stage(outcome, config, overrides, _enter, _stage)


def _enter(config: Config) -> RunDir:
    return RunDir.enter(
        config, writes=("assessment", "manifest.json"), outdates=("rejected.jsonl", *TRAINED, *MEASURED)
    )


def _stage(config: Config, run: RunDir, say: Say) -> dict[str, Any]:
    from pipelines.stages import assess as stage

    return stage(config, run, say)
