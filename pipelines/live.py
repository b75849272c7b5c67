"""A region at the bottom of the terminal that is drawn again in place, for as long as something goes on.

It only shows: whatever goes wrong with the terminal ends the view and never what is being watched.
"""

import logging
import sys
import threading
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


class LiveView:
    """Shows what `update` was last given; as a context manager, so that the cursor is put back however the block ends.

    The last state stays on the screen as plain lines. What others print to stderr meanwhile appears above it.

    Args:
        console: a terminal.
    """

    def __init__(self, console: "Console") -> None:
        from rich.live import Live

        # nothing but results goes to stdout, so it is only caught where it is the same screen
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=sys.stdout.isatty())
        self._console = console
        self._lock = threading.RLock()
        self._shown = False
        self._stderr: TextIO = sys.stderr

    @property
    def shown(self) -> bool:
        """False before and after, and once the terminal could not be drawn on."""
        return self._shown

    def __enter__(self) -> "LiveView":
        """Begin to show; the region is empty until the first `update`."""
        self._stderr = sys.stderr
        self._shown = True
        try:
            self._live.start()
            self._move_handlers(self._stderr, sys.stderr)
        except Exception:  # as in `update`
            self._end()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state on the screen and put the cursor back."""
        self._end()

    def update(self, renderable: "RenderableType") -> None:
        """Show `renderable` in the place of what was shown before; any thread may call."""
        with self._lock:
            if not self._shown:
                return
            try:
                self._live.update(renderable, refresh=True)
            except Exception:  # a terminal that has gone or cannot draw must not end what it shows
                self._end()

    def say(self, text: str) -> bool:
        """Print `text` above the view, as it is; False where it could not be shown here."""
        from rich.text import Text

        with self._lock:
            if not self._shown:
                return False
            try:
                self._console.print(Text(text), soft_wrap=True)
            except Exception:  # as in `update`
                self._end()
                return False
            return True

    def _end(self) -> None:
        with self._lock:
            if not self._shown:
                return
            self._shown = False
            with suppress(Exception):  # as in `update`; whatever the handlers do, the cursor is put back below
                self._move_handlers(sys.stderr, self._stderr)
            try:
                self._live.stop()
            except Exception:  # as in `update`; what Live has put in the place of stderr must not stay there
                sys.stderr = self._stderr

    def _move_handlers(self, source: TextIO, target: TextIO) -> None:
        """Let log handlers that write to `source` write to `target`: they keep the stream they were made with."""
        known = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
        handlers = {handler for logger in known if isinstance(logger, logging.Logger) for handler in logger.handlers}
        for handler in handlers:
            # those that look up stderr anew each time have no stream of their own, and need no help
            if isinstance(handler, logging.StreamHandler) and vars(handler).get("stream") is source:
                handler.setStream(target)
