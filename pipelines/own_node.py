"""A command whose own node Ray has lost ends, instead of waiting for ever for what can start nowhere any more."""

import threading
from contextlib import suppress

from pipelines import interrupts

EVERY_S = 5.0
"""Seconds from one look at the node to the next."""
PATIENCE_S = 10.0
"""Seconds in which the command may find out by itself what it has lost."""
_LAST_LOOK_S = 5.0
_LOST = "Ray lost a process that the command needs (the raylet of the node it runs on)"


class OwnNode:
    """Watches, in a thread, the node by which this process is part of a Ray cluster.

    Ray ends a process whose raylet has gone when it next asks it for an object. One that only waits for others to be
    started, as Ray Tune with trials to do again, never asks.
    """

    def __init__(self) -> None:
        import ray

        self._node = ray.get_runtime_context().get_node_id()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="own node", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End watching."""
        self._over.set()
        self._thread.join(_LAST_LOOK_S)  # it may be asking a head that has gone

    def _watch(self) -> None:
        while not self._over.wait(EVERY_S):
            if self._lost():
                if not self._over.wait(PATIENCE_S):
                    interrupts.give_up(_LOST)
                return

    def _lost(self) -> bool:
        import ray

        with suppress(Exception):  # the head does not answer: Ray itself gives up then
            return any(node["NodeID"] == self._node and not node["Alive"] for node in ray.nodes())
        return False
