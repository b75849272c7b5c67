"""`cpl sweep`: find learning rate, mastered-set size and whatever else matters."""

from collections.abc import Mapping
from typing import Any

from cpl_ray.config import Config
from cpl_ray.rundir import RunDir
from cpl_ray.space import dimensions
from pipelines.console import AsJson, ConfigPath, Outcome, Overrides, Quiet, Say, Verbose, run_stage
from pipelines.tables import print_table


def sweep(
    config: ConfigPath,
    overrides: Overrides = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Try the points of search.space on one assessment and choose by what was learned and forgotten.

    Writes sweep.json, best.yaml (ready for `cpl run`) and figures; every trial is an ordinary run in trials/.
    Choices look at M validation only. After an interruption the same command with run.resume=true continues.
    """
    outcome = Outcome("sweep", as_json, verbose, quiet)
    run_stage(outcome, config, overrides, _enter, _stage, resumable=True, show=show_sweep)


def _enter(config: Config) -> RunDir:
    dimensions(config)  # what cannot be searched is said before anything is made
    return RunDir.create(config)


def _stage(config: Config, run: RunDir, say: Say) -> dict[str, Any]:
    from pipelines.sweeping import sweep as stage

    return stage(config, run, say)


def show_sweep(result: Mapping[str, Any], run: RunDir | None) -> None:
    """Print the points with their rates, best learned first, and what was chosen."""
    from pipelines.sweep_view import settings

    columns = ("point", "settings", "seeds", "learned", "forgotten, validation", "held-out", "Pareto", "")
    chosen = (result["best"] or {}).get("point_id")
    rows = []
    for one in sorted(result["points"], key=lambda one: -(one["learned"]["share"] or 0.0)):
        rates = [one["learned"], one["forgotten"]["validation"], one["forgotten"]["held_out"]]
        cells = [f"{rate['count']} of {rate['of']}" if rate["of"] else "–" for rate in rates]
        mark = "chosen" if one["point_id"] == chosen else ""
        rows.append(
            (
                str(one["point_id"]),
                settings(one["point"]),
                str(len(one["trials"])),
                *cells,
                "yes" if one["pareto"] else "",
                mark,
            )
        )
    print_table(columns, rows)
    others = [trial for trial in result["trials"] if trial["state"] != "finished"]
    if others:
        print("not compared: " + ", ".join(f"trial {one['index']} {one['state']}" for one in others))
    print(f"choice: {result['reason']}")
    if result["smallest_mastered_set"] is not None:
        print(f"mastered set: {result['smallest_mastered_set']['text']}")
    if result["best_config"] is not None:
        print(f"next: cpl run {result['best_config']} run.name=NAME")
    if run is not None:
        print(f"sweep folder: {run.root}")
