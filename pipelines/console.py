"""What all verbs share: their arguments, what they print, and how a failure becomes a message and an exit code.

Exit codes: 0 done; 1 failed while running; 2 the gate refused; 3 wrong usage or configuration; 130 interrupted
(Ctrl-C); 143 terminated (SIGTERM).
Progress and messages go to stderr (with `--json` one JSON object a line, see `voice.py`); stdout carries results:
tables, or with `--json` exactly one JSON object.
"""

import logging
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from cpl_ray.config import Config
from cpl_ray.errors import ClusterError, StorageError, TrackingError, UserError
from cpl_ray.loading import load_config
from cpl_ray.notices import notices
from cpl_ray.redaction import redact, redacted
from cpl_ray.rundir import RunDir, atomic_write_text
from cpl_ray.storage import storage_error
from pipelines.interrupts import given_up, how_it_ended, signalled
from pipelines.last_words import last_words
from pipelines.voice import EventFormatter, Say, TextFormatter, Voice, json_line

EXIT_FAILED, EXIT_REFUSED, EXIT_USAGE = 1, 2, 3

Stage = Callable[[Config, RunDir, Say], dict[str, Any]]

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The configuration; `cpl init` writes one.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Override keys of the file, e.g. optimizer.lr=1e-4 run.name=a."),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout at the end; events go to stderr.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log more, and show tracebacks.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")]


@dataclass
class Outcome:
    """How one verb is told about, and what it has come to so far."""

    verb: str
    as_json: bool = False
    verbose: bool = False
    quiet: bool = False
    run: RunDir | None = None
    """Set once the run folder is known; tracebacks are written there."""
    again: str | None = None
    """The command that continues the run after an interruption; None where nothing can be continued."""
    say: Voice = field(init=False)
    """Says things on stderr."""

    def __post_init__(self) -> None:
        """Make the voice."""
        self.say = Voice(as_json=self.as_json, quiet=self.quiet)

    def finish(self, exit_code: int, result: dict[str, Any]) -> None:
        """Print the JSON object where asked for and leave with `exit_code`.

        Raises:
            typer.Exit: always.
        """
        if self.as_json:
            head: dict[str, Any] = {"verb": self.verb, "ok": exit_code == 0, "exit_code": exit_code}
            if self.run is not None:
                head["run_dir"] = str(self.run.root)
            print(json_line(redacted(head | result)), flush=True)
        raise typer.Exit(exit_code)


def debugging() -> bool:
    """Tell whether the user asked for tracebacks by the environment variable `CPL_DEBUG=1`."""
    return os.environ.get("CPL_DEBUG", "") not in ("", "0")


def execute(outcome: Outcome, work: Callable[[], dict[str, Any]], show: Callable[[dict[str, Any]], None]) -> None:
    """Do the `work` of a verb, print its result and leave with the right exit code.

    Args:
        outcome: the verb and how it prints; `work` may fill in its run folder.
        work: returns the result as a JSON-serialisable mapping. A `gate` entry `{"admitted": false, "reasons": […]}`
            in it makes the exit code 2.
        show: prints the result for people, on stdout; not called with `--json`.

    Raises:
        typer.Exit: always, with the exit code.
    """
    level = logging.INFO if outcome.verbose else logging.ERROR if outcome.quiet else logging.WARNING
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(EventFormatter() if outcome.as_json else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler])
    try:
        with _stdout_for_results(outcome.as_json):
            result: dict[str, Any] = redacted(work())
        if not outcome.as_json:
            show(result)
    except KeyboardInterrupt:
        _fail_by_signal(outcome)
    except BrokenPipeError:
        # whoever read our output has gone (`cpl env | head`); nothing can be told any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(EXIT_FAILED) from None
    except Exception as error:  # the last line of defence: whatever happened becomes a message and an exit code
        known = user_error(error) or _loss(error)
        if isinstance(known, StorageError) and outcome.again:
            known = StorageError(f"{known} with: {outcome.again}")
        if isinstance(known, ClusterError | TrackingError) and outcome.again:
            known = type(known)(f"{known}; continue with: {outcome.again}")
        if outcome.verbose or debugging():
            outcome.say(traceback.format_exc().rstrip(), event="traceback")
        if signalled():  # Ray's processes may have been told as well, and have gone first
            _fail_by_signal(outcome)
        if known is not None:
            if known.exit_code == EXIT_FAILED and outcome.run is not None:
                _write_traceback(outcome.run.root)  # so that a list of runs can tell this one from an interrupted one
            _fail(outcome, known.exit_code, type(known).__name__, str(known))
        place = (outcome.run and _write_traceback(outcome.run.root)) or _temporary_traceback()
        first_line = str(error).strip().split("\n", 1)[0]
        message = (
            f"cpl {outcome.verb} failed unexpectedly: {type(error).__name__}: {first_line}\n"
            f"The full traceback is in {place}; `-v` prints it."
        )
        _fail(outcome, EXIT_FAILED, type(error).__name__, message, traceback=str(place))
    gate = result.get("gate")
    if isinstance(gate, dict) and gate.get("admitted") is False:
        reasons = "; ".join(map(str, gate.get("reasons", ())))
        outcome.say(reasons, event="refused")
        outcome.finish(EXIT_REFUSED, result)
    outcome.finish(0, result)


def run_stage(
    outcome: Outcome,
    path: Path,
    overrides: Sequence[str] | None,
    enter: Callable[[Config], RunDir],
    stage: Stage,
    *,
    resumable: bool = False,
    show: Callable[[dict[str, Any], RunDir | None], None] | None = None,
) -> None:
    """Load the configuration, say which keys have no effect, enter the run folder and do `stage` in it.

    Args:
        outcome: the verb and how it prints.
        path: the configuration file.
        overrides: `key=value` each.
        enter: finds or makes the run folder, see `RunDir`.
        stage: gets the configuration with its final `run.name`, the folder and a function that prints progress.
        resumable: True: after an interruption the command that continues is printed.
        show: prints the result for people; None: the headline of a run.

    Raises:
        typer.Exit: always, with the exit code.
    """
    from pipelines.headline import show_headline

    def work() -> dict[str, Any]:
        config = load_config(path, overrides or ())
        for notice in notices(config):
            outcome.say(notice, event="note")
        run = enter(config)
        outcome.run = run
        if resumable and config.train.checkpoint_every is not None:
            outcome.again = _again(outcome.verb, path, overrides or (), run.name)
        outcome.say(f"run folder: {run.root}", event="run_folder", run_dir=str(run.root))
        with last_words(outcome.again, as_json=outcome.as_json):
            return stage(run.named(config), run, outcome.say)

    execute(outcome, work, lambda result: (show or show_headline)(result, outcome.run))


def user_error(error: BaseException) -> UserError | None:
    """Return the user's error that `error` is or was caused by, also on a worker of the cluster; None if there is none.

    Ray raises what failed remotely inside exceptions of its own, as `cause` or per worker in `worker_failures`.
    """
    waiting: list[Any] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop(0)
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        # Ray also derives a class from ours on the fly, whose text is a traceback: only our own classes count
        if isinstance(one, UserError) and not hasattr(one, "worker_failures") and not hasattr(one, "cause"):
            return one
        if isinstance(one, OSError) and (told := storage_error(one)):
            return told
        attributes = vars(one)
        waiting += [one.__cause__, attributes.get("cause")]
        failures = attributes.get("worker_failures") or attributes.get("_worker_failures")
        waiting += list(failures.values()) if isinstance(failures, dict) else []
    return None


def _loss(error: BaseException) -> ClusterError | None:
    """Return the error for what Ray has lost; None where it has not, or does not run."""
    if "ray" not in sys.modules:
        return None
    from cpl_ray.losses import lost

    what = lost(error)
    return ClusterError(f"Ray lost a process that the command needs ({what})") if what else None


def _fail_by_signal(outcome: Outcome) -> None:
    code, word = how_it_ended()
    more = f"; continue with: {outcome.again}" if outcome.again else ""
    _fail(outcome, code, "ClusterError" if given_up() else "KeyboardInterrupt", word + more)


def _fail(outcome: Outcome, exit_code: int, kind: str, message: str, **more: str) -> None:
    outcome.say(message, event="error", type=kind)
    outcome.finish(exit_code, {"error": {"type": kind, "message": message} | more})


def _write_traceback(folder: Path) -> Path | None:
    """Write the current exception's traceback into a run folder; None where that is not possible."""
    if not folder.is_dir():
        return None
    path = folder / f"failure-{datetime.now():%Y%m%d-%H%M%S}.txt"
    try:
        atomic_write_text(path, redact(traceback.format_exc()))
    except OSError:  # the run folder may be the very thing that failed
        return None
    return path


def _temporary_traceback() -> Path:
    handle, name = tempfile.mkstemp(prefix="cpl-failure-", suffix=".txt")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(redact(traceback.format_exc()))
    return Path(name)


@contextmanager
def _stdout_for_results(as_json: bool) -> Iterator[None]:
    """With `--json`, send to stderr whatever libraries and child processes print to stdout meanwhile."""
    if not as_json:
        yield
        return
    sys.stdout.flush()
    stdout, kept = sys.stdout, os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
        sys.stdout = stdout


def _again(verb: str, path: Path, overrides: Sequence[str], name: str) -> str:
    place = ("run.name", "run.resume", "run.overwrite")
    kept = [text for text in overrides if text.partition("=")[0].strip() not in place]
    return shlex.join(["cpl", *verb.split(), str(path), *kept, f"run.name={name}", "run.resume=true"])
