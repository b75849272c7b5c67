"""Ray nodes on this machine, each with its own raylet, started and lost like machines."""

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import ray

from tests.ray.conftest import until

RAY = Path(sys.executable).with_name("ray")
START_S = 120


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass
class Nodes:
    """A cluster of nodes with one CPU each; this process is connected to it."""

    folder: Path
    """Ray's own files; a short path, since sockets lie below it."""
    token: str = field(default_factory=lambda: secrets.token_hex(32))
    port: int = field(default_factory=free_port)
    started: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Return what a client of the cluster needs to have set."""
        return {"RAY_ADDRESS": self.address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    @property
    def alive(self) -> int:
        return sum(bool(node["Alive"]) for node in ray.nodes())

    def head(self) -> None:
        self._start(
            f"--head --node-ip-address=127.0.0.1 --port={self.port} --include-dashboard=false "
            f"--ray-client-server-port={free_port()}",
            (),
            f"--temp-dir={self.folder}",
        )

    def add(self, *inside: str) -> "subprocess.Popen[bytes]":
        """Add a node and wait for it; `inside` is a command that is given the node's command and starts it."""
        before = self.alive
        node = self._start(f"--address={self.address} --node-ip-address=127.0.0.1", inside)
        until(lambda: self.alive > before, START_S, pause_s=0.2)
        return node

    def _start(self, options: str, inside: tuple[str, ...], *more: str) -> "subprocess.Popen[bytes]":
        every = f"--block --num-cpus=1 --object-store-memory={150 * 2**20} --min-worker-port=0 --max-worker-port=0 "
        every += f"--dashboard-agent-listen-port={free_port()} --disable-usage-stats "
        variables = {key: value for key, value in self.environment.items() if key != "RAY_ADDRESS"}
        node = subprocess.Popen(
            [*inside, str(RAY), "start", *(every + options).split(), *more],
            env={**os.environ, **variables, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.started.append(node)
        return node

    def lose(self, node: "subprocess.Popen[bytes]") -> None:
        """End all processes of a node at once, as if its machine had lost power."""
        one = psutil.Process(node.pid)
        for process in [*one.children(recursive=True), one]:
            process.kill()
        node.wait()

    def remove(self, node: "subprocess.Popen[bytes]") -> None:
        """Lose a node and wait until the cluster knows."""
        before = self.alive
        self.lose(node)
        self.started.remove(node)
        until(lambda: self.alive < before, START_S, pause_s=0.2)


@contextmanager
def cluster(folder: Path) -> Iterator[Nodes]:
    """Start a head and one more node, connect to them, and end everything at the end."""
    nodes = Nodes(folder)
    before = {key: os.environ.get(key) for key in nodes.environment}
    try:
        nodes.head()
        os.environ.update(nodes.environment)
        until(_connected, START_S, pause_s=1.0)
        nodes.add()
        yield nodes
    finally:
        ray.shutdown()
        for node in reversed(nodes.started):
            nodes.lose(node)
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def _connected() -> bool:
    try:
        ray.init(log_to_driver=False)
    except (ConnectionError, RuntimeError):  # the head is still starting
        return False
    return True
