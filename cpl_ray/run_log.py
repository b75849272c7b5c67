"""What the processes of a training say of themselves, for whoever must find out later what happened.

`<run>/train/logs/rank_00000.jsonl` of every worker and `driver.jsonl`: one JSON object a line, appended also after a
restart, turned over at 2 MiB. All that cpl-ray's loggers say goes there from level INFO on; what they show elsewhere
(stderr, Ray's files) stays as it was. Numbers of every update are in metrics.jsonl, not here, so a healthy update
writes nothing. A log that cannot be written never stops the training.
"""

import json
import logging
import math
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from cpl_ray.tracking_uri import redact, redacted

LOGS = Path("train", "logs")
MAX_BYTES = 2 << 20
KEPT = 2
"""Full files that are kept beside the one in use; so a rank takes 6 MiB at most."""
MAX_CHARACTERS = 8_000
"""Of one message or traceback."""

TOLD = ("failed", "non_finite")
"""Events that are raised as well, so that whoever catches them shows them."""

_log = logging.getLogger(__name__)
_ours = logging.getLogger("cpl_ray")
_lock = threading.Lock()


@dataclass
class Place:
    """Where a process is; whoever knows better changes it, and every later line has it."""

    run: str
    rank: int | None = None
    """None: the driver."""
    step: int | None = None
    """Updates done; None before the loop."""


def event(kind: str, **fields: Any) -> dict[str, Any]:
    """Return what a log call takes as `extra`: the kind of event, and its numbers (JSON-serialisable)."""
    return {"event": kind, "fields": fields}


def log_path(run_folder: Path, rank: int | None) -> Path:
    """Return the log of a rank, or of the driver (None)."""
    return run_folder / LOGS / ("driver.jsonl" if rank is None else f"rank_{rank:05d}.jsonl")


@contextmanager
def logged(run_folder: Path | None, place: Place) -> Iterator[None]:
    """Write what cpl-ray's loggers say in the block to the log of `place.rank`; None: nowhere.

    One training at a time in a process: another one's lines would come here too.
    """
    handler = None if run_folder is None else _open(log_path(run_folder, place.rank), place)
    if handler is None:
        yield
        return
    with _lock:
        _Onward.install()
        _ours.addHandler(handler)
    try:
        yield
    finally:
        with _lock:
            _ours.removeHandler(handler)
            _Onward.remove_if_last()
        with suppress(OSError):  # of a full disk: nothing more can be done
            handler.close()


class JsonLines(logging.Formatter):
    """Makes a log record one line of JSON, without secrets."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        extra = vars(record)
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, Any] = {
            "time": at,
            "level": record.levelname.lower(),
            "run": self._place.run,
            "rank": self._place.rank,
            "step": self._place.step,
            "pid": record.process,
            "logger": record.name,
            "event": extra.get("event", "log"),
            "message": _bounded(redact(record.getMessage())),
        }
        fields = {name: value for name, value in extra.get("fields", {}).items() if name not in line}
        line |= {name: _known(redacted(value, name)) for name, value in fields.items()}
        if record.exc_info:
            line["traceback"] = _bounded(redact(self.formatException(record.exc_info)))
        return json.dumps(line, default=str, ensure_ascii=False)


class _File(RotatingFileHandler):
    """A log that gives up at its first failure, and says so once."""

    broken = False

    def emit(self, record: logging.LogRecord) -> None:
        """Append a record, unless that has failed before."""
        if not self.broken:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say what is wrong, on stderr: a logger would come back here."""
        self.broken = True
        print(f"the log {self.baseFilename} is not written any more: {sys.exc_info()[1]}", file=sys.stderr)


class _Onward(logging.Handler):
    """Hands on what would have been shown without us: same levels, and logging's last resort where nobody listens."""

    _installed: "_Onward | None" = None

    def __init__(self) -> None:
        super().__init__(_ours.getEffectiveLevel())
        self._level, self._propagate = _ours.level, _ours.propagate

    def emit(self, record: logging.LogRecord) -> None:
        """Give a record to the handlers of the root logger."""
        if self._propagate and vars(record).get("event") not in TOLD:
            logging.getLogger().callHandlers(record)

    @classmethod
    def install(cls) -> None:
        """Take the place of propagation, which would show all that the files get."""
        if cls._installed is None:
            cls._installed = onward = cls()
            _ours.addHandler(onward)
            _ours.propagate = False
            _ours.setLevel(min(logging.INFO, onward.level))

    @classmethod
    def remove_if_last(cls) -> None:
        """Put everything back once no log is open."""
        onward = cls._installed
        if onward is not None and not any(isinstance(handler, _File) for handler in _ours.handlers):
            _ours.removeHandler(onward)
            _ours.propagate = onward._propagate
            _ours.setLevel(onward._level)
            cls._installed = None


def _open(path: Path, place: Place) -> _File | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _end_torn_line(path)
        handler = _File(path, maxBytes=MAX_BYTES, backupCount=KEPT, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        _log.warning(f"the log {path} cannot be written ({error.strerror or error}); training goes on without it")
        return None
    handler.setLevel(logging.INFO)
    handler.setFormatter(JsonLines(place))
    return handler


def _end_torn_line(path: Path) -> None:
    """End the line that a killed process may have begun, so that the next one is whole."""
    if not path.is_file() or path.stat().st_size == 0:
        return
    with open(path, "r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        if stream.read(1) != b"\n":
            stream.write(b"\n")


def _bounded(text: str) -> str:
    """Return `text`, or its beginning and its end, where the reason of most tracebacks is."""
    half = MAX_CHARACTERS // 2
    return text if len(text) <= MAX_CHARACTERS else f"{text[:half]} […] {text[-half:]}"


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
