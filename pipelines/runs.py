"""`cpl runs`: which runs and sweeps a folder holds, and what has become of one of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.ages import duration
from pipelines.console import AsJson, Outcome, execute
from pipelines.tables import print_table

DEFAULT = Path("runs")
RunsFolder = Annotated[Path | None, typer.Option("--runs", metavar="DIR", help="Folder of the runs (default: runs).")]

runs_app = typer.Typer(name="runs", context_settings={"help_option_names": ["-h", "--help"]})


@runs_app.callback(invoke_without_command=True)
def runs(context: typer.Context, folder: RunsFolder = None, as_json: AsJson = False) -> None:
    """List the runs, sweeps, comparisons and studies of a folder, newest first; `cpl runs show NAME` shows one.

    States: running, finished (evaluated), trained, assessed, failed, interrupted, damaged (the reason is given).
    Until a run is evaluated, `learned` is that of the last evaluation during training.
    """
    if context.invoked_subcommand is not None:
        return

    def work() -> dict[str, Any]:
        from cpl_ray.listing import age_of, list_runs

        base = (folder or DEFAULT).expanduser().absolute()
        found = []
        for listed in list_runs(base):
            age_s, took_s = age_of(listed)
            found.append(listed.to_dict() | {"age_s": age_s, "took_s": took_s})
        return {"runs_dir": str(base), "runs": found}

    execute(Outcome("runs", as_json), work, _show_list)


@runs_app.command()
def show(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME_OR_FOLDER", help="A run, sweep or study in the folder, or its path.")
    ],
    folder: RunsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Show one run, sweep, comparison or study: state, results, places, why it failed, how to continue it."""
    above = context.parent.params if context.parent is not None else {}

    def work() -> dict[str, Any]:
        from cpl_ray.run_details import find_run
        from pipelines.resume_command import with_resume

        base = folder or above.get("folder") or DEFAULT
        return with_resume(find_run(name, base.expanduser().absolute()))

    def printed(found: dict[str, Any]) -> None:
        from pipelines.run_page import print_page

        print_page(found)

    execute(Outcome("runs show", as_json or bool(above.get("as_json"))), work, printed)


def _show_list(found: Mapping[str, Any]) -> None:
    rows = found["runs"]
    if not rows:
        print(f"no runs in {found['runs_dir']}")
        return
    columns = ("name", "kind", "state", "model", "rule", "learned", "forgotten held-out", "updates", "age", "took")
    print_table(columns, [_row(row) for row in rows])
    for row in rows:
        if row["problem"]:
            print(f"{row['name']} is damaged: {row['problem']}")


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    trials = row["trials"]
    updates = "" if row["updates"] is None else str(row["updates"])
    if trials is not None:
        done = trials.get("finished", 0) + trials.get("stopped", 0)
        updates = f"{done}/{sum(trials.values())} trials"
    return (
        row["name"],
        f"study {row['study']}" if row["study"] else row["kind"],
        row["state"],
        (row["model"] or "").rstrip("/").rpartition("/")[2],
        row["rule"] or "",
        counted(row["learned"]),
        counted(row["forgotten_held_out"]),
        updates,
        "" if row["age_s"] is None else duration(row["age_s"], short=True),
        "" if row["took_s"] is None else duration(row["took_s"], short=True),
    )


def counted(rate: Mapping[str, Any] | None) -> str:
    """Return a rate as `3/241 (1.2 %)`; empty where it was not measured."""
    if rate is None:
        return ""
    return f"{rate['count']}/{rate['of']}" + ("" if rate["share"] is None else f" ({100 * rate['share']:.1f} %)")
