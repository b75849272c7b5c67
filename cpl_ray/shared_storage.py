"""Is a folder the same one on every node? Each node writes there, reads it back, and sees what the driver wrote.

A run folder that only looks shared (the same path on each machine's own disk) is found out before the run, not when
the first checkpoint lacks the parts of other nodes.
"""

import os
import secrets
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_NODE_TIMEOUT_S = 60.0


def check_shared(folder: Path) -> list[str]:
    """Write, read back and delete in `folder` from the driver and from every node of the cluster.

    Ray must be initialised. Nothing is left in the folder.

    Args:
        folder: absolute; made where it is missing.

    Returns:
        A problem a node, with its address; empty where all is well. The driver's own problem comes alone.
    """
    name = f".cpl-storage-{secrets.token_hex(8)}"
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
            left.unlink(missing_ok=True)


def number_of_nodes() -> int:
    """Return how many nodes the cluster has now."""
    return sum(bool(node["Alive"]) for node in ray.nodes())


def visit(folder: str, name: str, node: str) -> str | None:
    """On a node: look for the driver's mark, write one's own and read it back; return what is wrong."""
    place = Path(folder)
    try:
        if (place / name).read_text("utf-8") != name:
            return f"what this machine wrote to {folder} reads differently there"
    except FileNotFoundError:
        return f"what this machine wrote to {folder} is not to be seen there"
    except OSError as error:
        return f"cannot read {folder}: {error.strerror or error}"
    own = place / f"{name}-{node}"
    try:
        with open(own, "w", encoding="utf-8") as stream:
            stream.write(node)
            stream.flush()
            os.fsync(stream.fileno())
        if own.read_text("utf-8") != node:
            return f"what it writes to {folder} reads differently"
    except OSError as error:
        return f"cannot write to {folder}: {error.strerror or error}"
    return None


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
    own = mark.with_name(f"{mark.name}-{node}")
    if problem is None and not (own.is_file() and own.read_text("utf-8") == node):
        return f"what it wrote to {mark.parent} is not to be seen on this machine"
    return problem
