"""`cpl report`: a run, sweep or comparison as one HTML file."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.console import AsJson, Outcome, Quiet, Verbose, execute


def report(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a run, sweep or comparison, or its folder.")],
    runs: Annotated[Path, typer.Option("--runs", metavar="DIR", help="Where runs lie.")] = Path("runs"),
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The file; default: report.html in the folder.")
    ] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Show an evaluated run, or a sweep or comparison finished or not, as one HTML file that needs nothing else.

    What was forgotten and learned with intervals, curves, every question before and after, settings and versions. Of a
    study, the path of its verdict.md is printed.
    """

    def work() -> dict[str, Any]:
        from cpl_ray.report import write_report
        from cpl_ray.report_source import find_folder, is_comparison, is_study, is_sweep, verdict_of

        folder = find_folder(name, runs)
        if is_study(folder):
            return {"kind": "study", "folder": str(folder), "report": str(verdict_of(folder, out))}
        path = write_report(folder, out)
        kind = "sweep" if is_sweep(folder) else "compare" if is_comparison(folder) else "run"
        return {"kind": kind, "folder": str(folder), "report": str(path)}

    execute(Outcome("report", as_json, verbose, quiet), work, lambda result: print(result["report"]))
