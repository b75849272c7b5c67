"""`cpl compare`: the rule and its rivals on the same data, scorer, budget and seeds, every rate tuned."""

from collections.abc import Mapping
from typing import Any

from cpl_ray.config import Config
from cpl_ray.contenders import contenders
from cpl_ray.rundir import RunDir
from pipelines.console import AsJson, ConfigPath, Outcome, Overrides, Quiet, Say, Verbose, run_stage
from pipelines.tables import print_table


def compare(
    config: ConfigPath,
    overrides: Overrides = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Compare methods (compare.methods) on one assessment: at equal learning, and inside a forgetting budget.

    Every method is tuned over the same rates with the first seed, by M validation only; its chosen rate is run with
    all seeds and measured on M test. Writes compare.json, compare.md, table.csv and figures; every trial is an ordinary
    run in trials/. After an interruption the same command with run.resume=true continues.
    """
    outcome = Outcome("compare", as_json, verbose, quiet)
    run_stage(outcome, config, overrides, _enter, _stage, resumable=True, show=show_comparison)


def _enter(config: Config) -> RunDir:
    contenders(config)  # what cannot be compared is said before anything is made
    return RunDir.create(config)


def _stage(config: Config, run: RunDir, say: Say) -> dict[str, Any]:
    from pipelines.comparing import compare as stage

    return stage(config, run, say)


def show_comparison(result: Mapping[str, Any], run: RunDir | None) -> None:
    """Print both tables and what follows from them."""
    from cpl_ray.compare_text import heading, table_at_target, table_inside

    for kind, (columns, rows) in (("at_target", table_at_target(result)), ("inside", table_inside(result))):
        print(heading(result, kind))
        print_table(columns, rows)
    for sentence in result["verdicts"]:
        print(f"- {sentence}")
    failed = [trial for trial in result["trials"] if trial["state"] == "failed"]
    for trial in failed:
        error = (trial["error"] or "").split("\n", 1)[0][:200]
        print(f"failed: trial {trial['index']}, {trial['method']} lr={trial['point']['optimizer.lr']:g}: {error}")
    if run is not None:
        print(f"comparison folder: {run.root}")
