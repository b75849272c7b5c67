"""The Typer application `cpl` (also `python -m pipelines`): one verb per module."""

import json
import sys
from typing import Any, cast

import typer

from cpl_ray.redaction import redact
from pipelines import interrupts
from pipelines.assess import assess
from pipelines.compare import compare
from pipelines.console import EXIT_FAILED, EXIT_USAGE
from pipelines.doctor import doctor
from pipelines.env import env
from pipelines.evaluate import evaluate
from pipelines.init import init
from pipelines.needs import plan
from pipelines.promote import promote
from pipelines.propose import propose
from pipelines.register import register
from pipelines.report import report
from pipelines.rollback import rollback
from pipelines.run import run
from pipelines.runs import runs_app
from pipelines.study import study
from pipelines.sweep import sweep
from pipelines.train import train
from pipelines.validate import validate
from pipelines.voice import Voice

app = typer.Typer(
    name="cpl",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _verb in (
    run,
    sweep,
    compare,
    study,
    propose,
    assess,
    train,
    evaluate,
    register,
    promote,
    rollback,
    report,
    validate,
    plan,
    init,
    doctor,
    env,
):
    app.command()(_verb)
app.add_typer(runs_app)


@app.callback()
def _describe() -> None:
    """Teach a language model new knowledge without making it forget: Collaborative Parameter Learning on Ray.

    Start with `cpl init`, then `cpl validate cpl.yaml`, then `cpl run cpl.yaml`.

    Exit codes: 0 done, 1 failed while running, 2 refused by the gate, 3 wrong usage or configuration.

    Ctrl-C ends a command with 130, SIGTERM with 143; both close the tracked run and say how to continue.
    """


# Typer re-exports only this one of its usage errors; its base is the class of all of them
_UsageError = cast(type[Any], typer.BadParameter.__base__)


def main() -> None:
    """Run the command line and leave with its exit code; wrong usage is 3 here, not 2, which means a refusal."""
    interrupts.see_to_the_end()
    try:
        code = app(prog_name="cpl", standalone_mode=False)
    except _UsageError as error:
        error.message = redact(error.message)
        if "--json" not in sys.argv:
            error.show()
        else:
            Voice(as_json=True)(error.format_message(), event="error", type="UsageError")
            message = {"type": "UsageError", "message": error.format_message()}
            print(json.dumps({"ok": False, "exit_code": EXIT_USAGE, "error": message}))
        code = EXIT_USAGE
    except typer.Abort:
        code = EXIT_FAILED
    if code in interrupts.EXIT_CODES or interrupts.given_up():
        interrupts.leave()
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
