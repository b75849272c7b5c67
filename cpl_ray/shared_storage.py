"""Is a folder the same one on every node? Each node writes there, reads it back, and sees what the driver wrote.

A run folder that only looks shared (the same path on each machine's own disk) is found out before the run, not when
the first checkpoint lacks the parts of other nodes. Nodes that join later, in the place of lost ones or because the
cluster grows, are tried by the first process that is to write there.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_NODE_TIMEOUT_S = 60.0
_PREFIX = ".cpl-storage-"


@dataclass(frozen=True)
class Mark:
    """A file by which processes on other nodes know the folder of a driver again, and where that driver is."""

    folder: str
    name: str
    node: str

    @classmethod
    def of(cls, folder: Path) -> "Mark":
        """Return a new mark of this process for `folder`; `marked` leaves it there."""
        return cls(str(folder), f"{_PREFIX}{secrets.token_hex(8)}", ray.get_runtime_context().get_node_id())


def check_shared(folder: Path) -> list[str]:
    """Write, read back and delete in `folder` from the driver and from every node of the cluster.

    Ray must be initialised. Nothing is left in the folder.

    Args:
        folder: absolute; made where it is missing.

    Returns:
        A problem a node, with its address; empty where all is well. The driver's own problem comes alone.
    """
    name = f"{_PREFIX}{secrets.token_hex(8)}"
    mark = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark.write_text(name, "utf-8")
    except OSError as error:
        return [f"this machine cannot write to {folder}: {error.strerror or error}"]
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        asked = {node["NodeID"]: _ask(node["NodeID"], folder, name) for node in nodes}
        return [
            f"node {node['NodeManagerAddress']}: {problem}"
            for node in nodes
            if (problem := _told(asked[node["NodeID"]], mark, node["NodeID"]))
        ]
    finally:
        for left in folder.glob(f"{name}*"):
            with suppress(OSError):  # a node's file that this machine may not delete has been told
                left.unlink(missing_ok=True)


@contextmanager
def marked(mark: Mark) -> Iterator[None]:
    """Leave `mark` in its folder while the block runs.

    Marks that a killed driver left are deleted: only one driver works in a run's folder.

    Raises:
        OSError: it cannot be written.
    """
    folder = Path(mark.folder)
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{_PREFIX}*"):
        left.unlink(missing_ok=True)
    path = folder / mark.name
    path.write_text(mark.name, "utf-8")
    try:
        yield
    finally:
        with suppress(OSError):  # what hinders deleting it has hindered more than that
            path.unlink(missing_ok=True)


def problem_here(mark: Mark) -> str | None:
    """Return, on any node, why the folder of `mark` is not the one that its driver sees, with this node's address.

    The driver's own node is taken to see what it sees. Nothing is left in the folder.
    """
    node = ray.get_runtime_context().get_node_id()
    if node == mark.node:
        return None
    problem = try_folder(mark.folder, mark.name, f"{node}-{secrets.token_hex(4)}")
    if problem is None:
        return None
    return f"run.dir is not on storage that every node shares: node {ray.util.get_node_ip_address()}: {problem}"


def number_of_nodes() -> int:
    """Return how many nodes the cluster has now."""
    return sum(bool(node["Alive"]) for node in ray.nodes())


def try_folder(folder: str, name: str, own: str) -> str | None:
    """Look for the driver's mark `name`; write a file of one's own, read it back, delete it. Return what is wrong."""
    place = Path(folder)
    try:
        if (place / name).read_text("utf-8") != name:
            return f"what this machine wrote to {folder} reads differently there"
    except FileNotFoundError:
        return f"what this machine wrote to {folder} is not to be seen there"
    except OSError as error:
        return f"cannot read {folder}: {error.strerror or error}"
    try:
        path = _leave(folder, name, own)
        if path.read_text("utf-8") != own:
            return f"what it writes to {folder} reads differently"
    except OSError as error:
        return f"cannot write to {folder}: {error.strerror or error}"
    try:
        path.unlink()
    except OSError as error:
        return f"cannot delete what it wrote to {folder}: {error.strerror or error}"
    return None


def visit(folder: str, name: str, node: str) -> str | None:
    """On a node: try the folder, and leave a file there for the driver to see; return what is wrong."""
    if problem := try_folder(folder, name, node):
        return problem
    try:
        _leave(folder, name, node)
    except OSError as error:
        return f"cannot write to {folder}: {error.strerror or error}"
    return None


def _leave(folder: str, name: str, own: str) -> Path:
    """Write a file beside the mark `name`, flushed to disk."""
    path = Path(folder, f"{name}-{own}")
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(own)
        stream.flush()
        os.fsync(stream.fileno())
    return path


def _ask(node: str, folder: Path, name: str) -> Any:
    """Start the visit of one node, which takes none of its CPUs."""
    pinned = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(visit).options(num_cpus=0, scheduling_strategy=pinned).remote(str(folder), name, node)


def _told(answer: Any, mark: Path, node: str) -> str | None:
    """Return what a node's visit found wrong, or that its file is not to be seen here."""
    try:
        problem: str | None = ray.get(answer, timeout=_NODE_TIMEOUT_S)
    except ray.exceptions.RayError as error:
        return f"did not answer within {_NODE_TIMEOUT_S:g} s ({type(error).__name__})"
    if problem is not None:
        return problem
    own = mark.with_name(f"{mark.name}-{node}")
    try:
        if own.read_text("utf-8") != node:
            return f"what it wrote to {mark.parent} reads differently on this machine"
        own.unlink()
    except FileNotFoundError:
        return f"what it wrote to {mark.parent} is not to be seen on this machine"
    except OSError as error:
        return f"this machine cannot read and delete what it wrote to {mark.parent}: {error.strerror or error}"
    return None
