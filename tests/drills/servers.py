"""The MLflow server is killed while a job has it for its tracking."""

from pathlib import Path
from typing import Any

from tests.drills.faults import Fault
from tests.tracking.runs import Server

BACK_AFTER = 2
"""Updates after which a server that was killed comes back."""


class TrackingServer(Fault):
    """The server is killed and comes back two updates later; nothing may fail."""

    def begin(self) -> None:
        super().begin()
        self.server = Server(self.place)
        self.server.start()
        self.arguments = [f"tracking.uri={self.server.uri}"]
        self.back = False

    def strike(self, folder: Path, process: Any) -> None:
        self.server.kill()

    def watch(self, folder: Path) -> None:
        if not self.back and self.job.updates(folder) >= self.update + BACK_AFTER:
            self.back = True
            self.server.start()

    def heal(self, folder: Path) -> None:
        if self.server.process is None:
            self.server.start()

    def end(self) -> None:
        self.server.kill()


class TrackingServerEarly(TrackingServer):
    """The same at a moment before the first update, so that it comes back after the second."""

    def begin(self) -> None:
        super().begin()
        self.update = 0

    def due(self, folder: Path, process: Any) -> bool:
        return self.arrived(folder)


class TrackingServerLate(TrackingServerEarly):
    """It does not come back by itself: nothing can be registered, which is an error that names the server."""

    def begin(self) -> None:
        super().begin()
        self.ends = (1,)
        self.said = f"MLflow at {self.server.uri} (cannot be reached|took only part).*continue with: cpl "

    def watch(self, folder: Path) -> None:
        """Stay away until the command has ended."""
