"""Placement groups whose creator is dead are removed, so that what a stopped trial held is free for the next one.

A trial that is stopped early, or killed, takes Ray Train's controller with it; the placement group that holds the CPUs
or GPUs of its workers stays. Ray Train's own cleaner asks the dashboard who is alive, which takes up to minutes on a
busy machine, and does not know of a group that a dying controller still asks for. The control store knows both.
"""

import time
from typing import Any

import ray
from ray._private.state import actors, state
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup, remove_placement_group

_LOOK_EVERY_S = 0.5
_Group: Any = gcs_pb2.PlacementGroupTableData  # type: ignore[attr-defined]  # made at import


class Orphans:
    """The placement groups of this job that an actor has created."""

    def __init__(self) -> None:
        self._looked = 0.0

    def release(self) -> int:
        """Remove the groups whose creator is dead; looks twice a second at most.

        Returns:
            how many groups it has found, of living and dead; -1 where it has not looked.
        """
        if time.monotonic() - self._looked < _LOOK_EVERY_S:
            return -1
        groups = _groups()
        for group, creator in groups.items():
            if (actors(creator) or {}).get("State", "DEAD") == "DEAD":
                remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(group)))
        self._looked = time.monotonic()
        return len(groups)

    def release_all(self, patience_s: float) -> None:
        """Wait until a look finds none, for at most `patience_s` seconds; Ray frees the rest when the job ends."""
        deadline = time.monotonic() + patience_s
        while self.release() and time.monotonic() < deadline:
            time.sleep(0.1)


def _groups() -> dict[str, str]:
    """Return the creator of each placement group of this job that is not removed and that an actor has created."""
    job = ray.get_runtime_context().get_job_id()
    table = map(_Group.FromString, state._connect_and_get_accessor().get_placement_group_table())
    return {
        one.placement_group_id.hex(): one.creator_actor_id.hex()
        for one in table
        if one.state != _Group.REMOVED and one.creator_job_id.hex() == job and _named(one)
    }


def _named(group: Any) -> bool:
    return bool(group.creator_actor_id) and group.creator_actor_id != ray.ActorID.nil().binary()
