"""`cpl propose`: a proxy mastered set that the model writes itself."""

from collections.abc import Mapping
from typing import Any

from cpl_ray.config import Config
from cpl_ray.errors import ConfigError
from cpl_ray.rundir import RunDir
from pipelines.checks import check_propose
from pipelines.console import AsJson, ConfigPath, Outcome, Overrides, Quiet, Say, Verbose, run_stage
from pipelines.tables import print_table

WRITES = ("proposed.jsonl", "proposed_held_out.jsonl", "proposed.json")


def propose(
    config: ConfigPath,
    overrides: Overrides = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Let the model write questions and answers of its own, to be protected where there is no old data.

    What it answers the same again is kept: proposed.jsonl for data.mastered, proposed_held_out.jsonl for
    data.mastered_held_out. It protects what the model says, not what is true.
    """
    outcome = Outcome("propose", as_json, verbose, quiet)

    def stage(settings: Config, run: RunDir, say: Say) -> dict[str, Any]:
        from pipelines.proposing import propose_items

        return propose_items(settings, run, say, given=(str(config), *(overrides or ())))

    run_stage(outcome, config, overrides, _enter, stage, show=show_proposed)


def _enter(config: Config) -> RunDir:
    if config.run.resume:
        raise ConfigError("run.resume: proposing is not continued; run.overwrite=true starts again")
    check_propose(config)
    return RunDir.enter(config, writes=WRITES, outdates=("rejected.jsonl",))


def show_proposed(result: Mapping[str, Any], run: RunDir | None) -> None:
    """Print how many items were made, why others were not, and how to use them."""
    rows = [("kept", str(result["kept"])), *((reason, str(count)) for reason, count in result["rejected"].items())]
    print_table(("prompts", str(result["prompts"])), rows, numbers=True)
    if run is not None:
        print(f"run folder: {run.root}")
    print("use it with:")
    print(result["command"])
