"""`cpl validate`: everything that can be found wrong before anything expensive starts, and the plan of the run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cpl_ray.config import Config
from cpl_ray.config_compare import CompareConfig
from cpl_ray.config_propose import ProposeConfig
from cpl_ray.contenders import contenders
from cpl_ray.errors import ConfigError, UserError
from cpl_ray.loading import load_config
from cpl_ray.notices import notices
from cpl_ray.space import dimensions
from pipelines.checks import check_data, check_model, check_places, check_propose
from pipelines.console import AsJson, Outcome, Overrides, Quiet, Verbose, execute
from pipelines.plan import Plan, plan_of
from pipelines.tables import print_table


def validate(
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG.yaml", help="The configuration to check.")] = None,
    overrides: Overrides = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the configuration's JSON schema instead.")] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Check configuration, files and items, and print the plan of the run, without loading the model.

    Says which keys have no effect in this combination. Exit code 3 if anything is wrong; all problems are listed.
    """
    if schema:
        print(json.dumps(Config.model_json_schema(), indent=2, ensure_ascii=False))
        raise typer.Exit(0)
    outcome = Outcome("validate", as_json, verbose, quiet)

    def work() -> dict[str, Any]:
        if config is None:
            raise ConfigError("name the configuration to check: cpl validate CONFIG.yaml")
        return check(load_config(config, overrides or ()), outcome)

    execute(outcome, work, _show)


def check(config: Config, outcome: Outcome) -> dict[str, Any]:
    """Check what `config` names and return the plan.

    Returns:
        `notices`: keys without effect; `plan`: see `Plan`.

    Raises:
        ConfigError: lists every problem found.
    """
    said = notices(config)
    for notice in said:
        outcome.say(notice, event="note")
    problems, remarks = check_model(config)
    place_problems, place_remarks = check_places(config)
    sections: tuple[tuple[Callable[[Config], object], object], ...] = (
        (dimensions, config.search.space),
        (contenders, config.compare != CompareConfig()),
        (check_propose, config.propose != ProposeConfig()),
    )
    for section, given in sections:
        try:
            if given:
                section(config)
        except UserError as error:
            problems.append(str(error))
    found = check_data(config)
    problems += place_problems + found.problems
    for remark in remarks + place_remarks + found.remarks:
        outcome.say(remark, event="note")
    if problems:
        count = f"{len(problems)} problems" if len(problems) > 1 else "1 problem"
        raise ConfigError("\n".join([f"{count} found:", *(f"  - {problem}" for problem in problems)]))
    return {"notices": said, "plan": plan_of(config, found).to_dict()}


def _show(result: dict[str, Any]) -> None:
    print_table(("plan", "value"), Plan(**result["plan"]).rows())
    print("the configuration is valid")
