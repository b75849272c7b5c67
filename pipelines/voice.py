"""What a command says while it works: to stderr, as text for people, or as one JSON object a line for programs.

The one way to say things is a `Say`: a message, and for programs the kind of event and its numbers.
"""

import json
import logging
import math
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any, Protocol

from cpl_ray.redaction import redact, redacted
from pipelines.live import LiveView

ALWAYS = ("error", "refused", "traceback")
"""Events that are also told with `--quiet`."""
_PREFIXES = {"note": "note: ", "error": "error: ", "refused": "refused by the gate: "}


class Say(Protocol):
    """Tells the user something. `event` and `fields` (JSON-serialisable) are for programs; text shows the message."""

    def __call__(self, message: str, *, event: str = "say", **fields: Any) -> None: ...


class Voice:
    """Says things on stderr.

    Args:
        as_json: one JSON object a line: `event`, `time` (UTC), `message`, and the fields of the event.
        quiet: errors only.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json, self._quiet = as_json, quiet
        self._view: LiveView | None = None
        self._lock = threading.Lock()

    def __call__(self, message: str, *, event: str = "say", **fields: Any) -> None:
        """Say one thing: above the live view if there is one, else as it is (no markup, no wrapping)."""
        if self._quiet and event not in ALWAYS:
            return
        text = event_line(event, message, fields) if self.as_json else _PREFIXES.get(event, "") + redact(message)
        with self._lock:  # the threads that follow training speak too
            if self._view is None or not self._view.say(text):
                sys.stderr.write(text + "\n")
                sys.stderr.flush()

    @contextmanager
    def live(self) -> Iterator[LiveView | None]:
        """Show a live view while the block runs; None where people do not watch a terminal, or one is shown already."""
        from rich.console import Console

        console = Console(stderr=True)
        watched = sys.stderr.isatty() and not console.is_dumb_terminal
        if self.as_json or self._quiet or not watched or self._view is not None:
            yield None
            return
        with LiveView(console) as view:
            self._view = view
            try:
                yield view
            finally:
                self._view = None


def live_view(say: Say) -> AbstractContextManager[LiveView | None]:
    """Return the live view of a `Voice`; other ways of saying things have none."""
    return say.live() if isinstance(say, Voice) else nullcontext(None)


def for_programs(say: Say) -> bool:
    """Tell whether a program listens, which can use more than people want to read."""
    return isinstance(say, Voice) and say.as_json


def event_line(event: str, message: str, fields: Mapping[str, Any]) -> str:
    """Return an event as one line of JSON, without secrets; numbers that JSON does not know become null."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    known = {name: _json_number(redacted(value, name)) for name, value in fields.items()}
    return json_line({"event": event, "time": now, "message": redact(message)} | known)


def json_line(content: Mapping[str, Any]) -> str:
    """Return one object as JSON; what JSON does not know becomes text without secrets."""
    return json.dumps(content, default=lambda value: redact(str(value)), ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """Makes log records lines for people, without secrets."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text, with its traceback."""
        return redact(super().format(record))


class EventFormatter(logging.Formatter):
    """Makes log records events of the same form."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        fields: dict[str, Any] = {"level": record.levelname.lower(), "logger": record.name}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return event_line("log", record.getMessage(), fields)


def _json_number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
