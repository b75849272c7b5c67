"""`cpl rollback`: take the last promotion back."""

from typing import Any

from cpl_ray.loading import load_config
from cpl_ray.notices import notices
from pipelines.console import AsJson, ConfigPath, Outcome, Overrides, Quiet, Verbose, execute


def rollback(
    config: ConfigPath,
    overrides: Overrides = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Make the version champion again that the present champion replaced.

    Needs no run folder: tracking.uri (or run.dir, where the default store lies) and tracking.model_name say which
    registry and model are meant. Again: one promotion further back. Exit code 1: there is nothing to go back to.
    """
    outcome = Outcome("rollback", as_json, verbose, quiet)

    def work() -> dict[str, Any]:
        from cpl_ray.promotion import rollback as roll_back
        from cpl_ray.rundir import runs_folder

        settings = load_config(config, overrides or ())
        for notice in notices(settings):
            outcome.say(f"note: {notice}")
        done = roll_back(settings, runs_folder(settings))
        return {"rolled_back": {"name": done.name, "champion": done.version, "instead_of": done.instead_of}}

    execute(outcome, work, _show)


def _show(result: dict[str, Any]) -> None:
    done = result["rolled_back"]
    print(f"champion of {done['name']} is version {done['champion']} again, instead of version {done['instead_of']}")
