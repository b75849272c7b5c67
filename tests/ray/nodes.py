"""Ray nodes on this machine, each with its own raylet, started and lost like machines."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.ports import free_port
from tests.processes import kill_tree
from tests.ray.conftest import ROOT, START_S

RAY = Path(sys.executable).with_name("ray")
WAIT = """\
import sys, time, ray
ray.init(log_to_driver=False)
deadline = time.monotonic() + float(sys.argv[2])
while sum(node["Alive"] for node in ray.nodes()) != int(sys.argv[1]):
    assert time.monotonic() < deadline, ray.nodes()
    time.sleep(0.2)
"""


@dataclass
class Nodes:
    """A cluster of nodes with one CPU each. Whoever asks it something does so in a process of its own."""

    folder: Path
    """Ray's own files; a short path, since sockets lie below it."""
    token: str | None = None
    """What clients must show; None: nothing."""
    port: int = field(default_factory=free_port)
    started: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Return what a client of the cluster needs to have set."""
        shown = (
            {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token} if self.token else {"RAY_AUTH_MODE": "disabled"}
        )
        return {"RAY_ADDRESS": f"{address()}:{self.port}", **shown}

    def head(self) -> None:
        options = f"--head --port={self.port} --include-dashboard=false --dashboard-port={free_port()}"
        self._start(options, (), f"--ray-client-server-port={free_port()}", f"--temp-dir={self.folder}")

    def add(self, *inside: str) -> "subprocess.Popen[bytes]":
        """Add a node and wait for it; `inside` is a command that is given the node's command and starts it."""
        node = self._start(f"--address={address()}:{self.port}", inside)
        self.wait()
        return node

    def wait(self) -> None:
        """Wait until the cluster has as many nodes as were started and not lost."""
        self.ask(WAIT, str(len(self.started)), str(START_S))

    def ask(self, script: str, *arguments: str) -> str:
        """Run a script as a client of the cluster and return what it prints."""
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            env={**os.environ, **self.environment, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2 * START_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _start(self, options: str, inside: tuple[str, ...], *more: str) -> "subprocess.Popen[bytes]":
        every = f"--block --num-cpus=1 --object-store-memory={150 * 2**20} --min-worker-port=0 --max-worker-port=0 "
        every += f"--node-ip-address={address()} --dashboard-agent-listen-port={free_port()} --disable-usage-stats "
        variables = {key: value for key, value in (os.environ | self.environment).items() if key != "RAY_ADDRESS"}
        with open(self.folder.with_suffix(f".{len(self.started)}.log"), "wb") as log:
            node = subprocess.Popen(
                [*inside, str(RAY), "start", *(every + options).split(), *more],
                env={**variables, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(node)
        return node

    def lose(self, node: "subprocess.Popen[bytes]") -> None:
        """End all processes of a node at once, as if its machine had lost power."""
        kill_tree(node.pid)
        node.wait()
        self.started.remove(node)


def address() -> str:
    """Return the address of this machine that Ray itself would choose; it takes none for the loopback one."""
    import ray

    return str(ray.util.get_node_ip_address())


@contextmanager
def cluster(folder: Path, count: int = 2, token: str | None = None) -> Iterator[Nodes]:
    """Start a head and `count - 1` more nodes, and end everything at the end."""
    nodes = Nodes(folder, token)
    try:
        nodes.head()
        nodes.wait()
        for _ in range(count - 1):
            nodes.add()
        yield nodes
    finally:
        for node in reversed(nodes.started.copy()):
            nodes.lose(node)
