"""`cpl study`: ask a question about the method on one's own model and data."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from cpl_ray.config import Config
from cpl_ray.errors import ConfigError
from cpl_ray.rundir import RunDir
from pipelines.console import AsJson, ConfigPath, Outcome, Overrides, Quiet, Say, Verbose, run_stage
from pipelines.studies import STUDIES


def study(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The study; see above.")],
    config: ConfigPath,
    overrides: Overrides = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    outcome = Outcome(f"study {name}", as_json, verbose, quiet)

    def enter(settings: Config) -> RunDir:
        if name not in STUDIES:
            raise ConfigError(f"there is no study {name!r}; valid are {', '.join(STUDIES)}")
        STUDIES[name].check(settings)
        return RunDir.create(settings)

    def stage(settings: Config, run: RunDir, say: Say) -> dict[str, Any]:
        from pipelines.studying import conduct

        return conduct(STUDIES[name], settings, run, say)

    run_stage(outcome, config, overrides, enter, stage, resumable=True, show=show_study)


_LINES = "\n".join(f"  {one.name:<14} {one.line}" for one in STUDIES.values())
study.__doc__ = f"""Ask a question about the method on your model and data; get data, figures and a verdict.

\b
Studies:
{_LINES}

Writes data/*.parquet, figures/*.png, verdict.md and study.json into the run folder.
"""


def show_study(result: Mapping[str, Any], run: RunDir | None) -> None:
    """Print the verdict, and where everything lies."""
    print(result["verdict"])
    if run is not None:
        print(f"study folder: {run.root}")
