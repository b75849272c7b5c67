"""Several machines in small: Ray nodes in network namespaces with addresses of their own, and a job submitted to them.

python -m tests.drills.machines [power] [network] [dashboard] [head]

A head without CPUs, two nodes with one each, token authentication, `cluster/submit.sh run` from a fourth place. Then
the same job again and again, while one node loses power, one its network (each is replaced), the head its dashboard,
and all their power (all is started anew and the run resumed). All must end bit for bit as the first did. Needs root on
Linux and `ip`; everything happens in namespaces that go with this process.
"""

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch

from tests.drills.jobs import RUN
from tests.faults import mounts
from tests.processes import command_line, kill
from tests.ray.conftest import ROOT, World, build_model, facts, steps, until, weights, write_rows

INSIDE = "CPL_MACHINES_INSIDE"
"""Set in the namespaces that the machines have for themselves."""
NETWORK = "10.77.0"
CLIENT, HEAD = 254, 1
DASHBOARD, GCS = 8265, 6379
START_S, LOST_S, JOB_S = 120, 180, 900


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@dataclass
class Machine:
    """A network namespace with one address, in which one Ray node runs."""

    number: int
    node: "subprocess.Popen[bytes] | None" = None

    @property
    def name(self) -> str:
        return f"m{self.number}"

    @property
    def address(self) -> str:
        return f"{NETWORK}.{self.number}"

    def connect(self) -> None:
        """Make the namespace and lay its cable to the bridge."""
        ip("netns", "add", self.name)
        ip("link", "add", f"out{self.number}", "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("link", "set", f"out{self.number}", "master", "bridge", "up")
        for command in (("link", "set", "lo", "up"), ("link", "set", "eth0", "up")):
            ip("-n", self.name, *command)
        ip("-n", self.name, "address", "add", f"{self.address}/24", "dev", "eth0")

    def cut(self) -> None:
        """Pull the cable; what runs there goes on."""
        ip("link", "set", f"out{self.number}", "down")

    def processes(self) -> list[psutil.Process]:
        """Return all that runs here, also what has lost its parent."""
        said = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True).stdout
        found = []
        for pid in said.split():
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(pid)))
        return found

    def lose_power(self) -> None:
        while running := self.processes():
            kill(*running)
            time.sleep(0.1)
        assert self.node is not None
        self.node.wait()
        self.node = None

    def ended(self) -> bool:
        return self.node is not None and self.node.poll() is not None

    def trains(self) -> bool:
        """Tell whether a training worker is here."""
        return self.node is not None and bool(self.named("RayTrainWorker"))

    def named(self, part: str) -> list[psutil.Process]:
        """Return the processes here whose command line has this in it."""
        return [one for one in self.processes() if part in command_line(one)]


@dataclass
class Machines:
    """The head and its nodes."""

    folder: Path
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    all: list[Machine] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Return what all nodes and clients have set."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "OMP_NUM_THREADS": "1", "PATH": path}
        return {**os.environ, **own, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}

    def add(self) -> Machine:
        """Start another machine: the first is the head."""
        machine = Machine(HEAD + len(self.all))
        machine.connect()
        self.all.append(machine)
        return self.start(machine)

    def restart(self) -> None:
        """Start head and two nodes anew, on machines that have lost everything but what all share."""
        self.end()
        for machine in self.all[:3]:
            self.start(machine)

    def start(self, machine: Machine) -> Machine:
        ip("link", "set", f"out{machine.number}", "up")  # it may have been cut off before
        options = ["--block", f"--node-ip-address={machine.address}", "--disable-usage-stats"]
        options += ["--min-worker-port=0", "--max-worker-port=0", f"--object-store-memory={150 * 2**20}"]
        if machine.number == HEAD:
            options += ["--head", "--num-cpus=0", f"--port={GCS}", f"--temp-dir={self.folder / 'ray'}"]
            options += [f"--dashboard-host={machine.address}", f"--dashboard-port={DASHBOARD}"]
        else:
            options += ["--num-cpus=1", f"--address={NETWORK}.{HEAD}:{GCS}"]
        with open(self.folder / f"{machine.name}.log", "wb") as log:
            # a disk of its own for Ray's files: agents of other nodes would clear away what they do not know
            local = f"mkdir -p {self.folder}/ray && mount -t tmpfs none {self.folder}/ray && exec ray start"
            command = ["ip", "netns", "exec", machine.name, "sh", "-c", f'{local} "$@"', "sh", *options]
            machine.node = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        said = self.folder / f"{machine.name}.log"  # one after the other: they name their sockets in one folder
        until(lambda: "will now block" in said.read_text() or machine.ended(), START_S, pause_s=0.2)
        assert not machine.ended(), said.read_text()
        return machine

    def submit(self, world: World, name: str, *more: str) -> "subprocess.Popen[str]":
        """Hand the whole job in from a place that is none of the machines."""
        places = [f"run.dir={world.runs}", f"model={world.folder}/model", f"data.items={world.folder}/items.jsonl"]
        arguments = ["run", str(world.folder / "drill.yaml"), *places, f"run.name={name}", "cluster.max_failures=4"]
        arguments += more
        return subprocess.Popen(
            [str(ROOT / "cluster" / "submit.sh"), "--id", f"{name}-{len(more)}", *arguments],
            env={**self.environment, "RAY_ADDRESS": f"http://{NETWORK}.{HEAD}:{DASHBOARD}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def training(self) -> list[Machine]:
        return [machine for machine in self.all if machine.trains()]

    def end(self) -> None:
        for machine in reversed(self.all):
            if machine.node is not None:
                machine.lose_power()


def undisturbed(world: World, machines: Machines) -> None:
    """Run the job; its two workers must be on two machines."""
    job = machines.submit(world, "calm")
    until(lambda: len(steps(world.runs / "calm")) >= 2 or job.poll() is not None, JOB_S, pause_s=0.2)
    assert job.poll() is None, job.communicate()[0]
    where = [machine.address for machine in machines.training()]
    assert len(where) == 2, where
    out, _ = job.communicate(timeout=JOB_S)
    assert job.returncode == 0, out
    assert machines.token not in out
    print(f"submitted to {NETWORK}.{HEAD}, trained on {' and '.join(where)}, job succeeded", flush=True)


def half_done(world: World, machines: Machines, name: str) -> "subprocess.Popen[str]":
    """Submit the job and wait until it trains."""
    job = machines.submit(world, name)
    until(lambda: len(steps(world.runs / name)) >= 5 or job.poll() is not None, JOB_S, pause_s=0.2)
    assert job.poll() is None, job.communicate()[0]
    return job


def compare(world: World, name: str) -> None:
    """Hold a run against the undisturbed one."""
    ours, calm = weights(world.runs / name), weights(world.runs / "calm")
    assert [key for key in calm if not torch.equal(ours[key], calm[key])] == []
    assert steps(world.runs / name) == steps(world.runs / "calm")
    results = [json.loads((world.runs / run / "result.json").read_text()) for run in ("calm", name)]
    assert results[0]["forgotten"] == results[1]["forgotten"]


def headless(world: World, machines: Machines, name: str, what: str) -> None:
    """Run the job again and lose the head or its dashboard in the middle; where that ends the job, resume it."""
    job = half_done(world, machines, name)
    done, result = len(steps(world.runs / name)), world.runs / name / "result.json"
    head = machines.all[0]
    if what == "head":
        machines.end()
    else:
        dashboard = head.named("dashboard.py")
        assert dashboard
        kill(*dashboard)
    out, _ = job.communicate(timeout=JOB_S)
    assert machines.token not in out
    until(lambda: result.exists() or head.node is None or head.ended(), LOST_S, demand=False, pause_s=0.2)
    alive = result.exists()
    if not alive:
        machines.restart()
        again = machines.submit(world, name, "run.resume=true")
        out, _ = again.communicate(timeout=JOB_S)
        assert again.returncode == 0, out
    compare(world, name)
    way = "the job went on" if alive else "started anew, resumed"
    print(f"{what} lost after update {done}, client's exit code {job.returncode}, {way}: the same weights", flush=True)


def disturbed(world: World, machines: Machines, name: str, how: str) -> None:
    """Run the job again, lose a machine in the middle, bring another, and compare."""
    job = half_done(world, machines, name)
    victim = machines.training()[-1]
    done = len(steps(world.runs / name))
    began = time.monotonic()
    victim.lose_power() if how == "power" else victim.cut()
    heir = machines.add()
    out, _ = job.communicate(timeout=JOB_S)
    assert job.returncode == 0, out
    assert out.count("a worker was lost") >= 1, out
    compare(world, name)
    if victim.node is not None:
        victim.lose_power()
    print(
        f"{victim.address} lost its {how} after update {done}, {heir.address} came: "
        f"the same weights {time.monotonic() - began:.0f} s later",
        flush=True,
    )


LOSSES = {"power": disturbed, "network": disturbed, "dashboard": headless, "head": headless}


def main() -> int:
    """Set up, run the drills, end everything."""
    parser = argparse.ArgumentParser(prog="python -m tests.drills.machines", description=main.__doc__)
    parser.add_argument("lost", nargs="*", help=f"of {', '.join(LOSSES)}; none: all")
    chosen = parser.parse_args()
    if unknown := [name for name in chosen.lost if name not in LOSSES]:
        parser.error(f"nothing is known of losing {unknown[0]!r}; valid are {', '.join(LOSSES)}")
    if INSIDE not in os.environ:
        command = [*mounts.PRIVATE, "--net", sys.executable, "-m", "tests.drills.machines", *sys.argv[1:]]
        os.execvpe(command[0], command, {**os.environ, INSIDE: "1"})
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)  # where `ip netns` keeps names
    ip("link", "set", "lo", "up")
    # of its own, or it takes the lowest of its ports', and machines that come and go change the client's
    ip("link", "add", "bridge", "address", "02:00:00:00:00:fe", "type", "bridge")
    ip("link", "set", "bridge", "up")
    ip("address", "add", f"{NETWORK}.{CLIENT}/24", "dev", "bridge")
    world = World(Path(tempfile.mkdtemp(prefix="cpl-m-", dir="/tmp")))  # short: sockets lie below it
    build_model(world.folder / "model")
    write_rows(world.folder / "items.jsonl", facts())
    (world.folder / "drill.yaml").write_text(RUN)
    machines = Machines(world.folder)
    try:
        for _ in range(3):
            machines.add()
        undisturbed(world, machines)
        for lost in chosen.lost or LOSSES:
            LOSSES[lost](world, machines, f"without-{lost}", lost)
            machines.restart()
    finally:
        machines.end()
    print(f"all runs are in {world.runs}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
