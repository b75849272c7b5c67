"""Placement groups of dead actors are removed, those of living ones are not (Ray on this machine, three CPU slots)."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.util.placement_group import placement_group

from cpl_ray.orphans import Orphans

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture
def session() -> Iterator[None]:
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@ray.remote(num_cpus=0)
class Creator:
    """An actor that holds a placement group, as Ray Train's controller does."""

    def take(self) -> str:
        self.group = placement_group([{"CPU": 1.0}])
        ray.get(self.group.ready())
        return str(self.group.id.hex())


def states(groups: dict[str, str]) -> dict[str, str]:
    table: dict[str, Any] = ray.util.placement_group_table()
    return {name: table[group]["state"] for name, group in groups.items()}


def test_what_the_dead_hold_is_removed_and_what_the_living_hold_is_not(session: None) -> None:
    creator: Any = Creator
    dead, living = creator.remote(), creator.remote()
    drivers = placement_group([{"CPU": 1.0}])
    ray.get(drivers.ready())
    groups = {
        "dead": ray.get(dead.take.remote()),
        "living": ray.get(living.take.remote()),
        "driver": drivers.id.hex(),
    }
    orphans = Orphans()
    assert orphans.release() == 2
    assert set(states(groups).values()) == {"CREATED"}

    ray.kill(dead)
    orphans.release_all(15.0)  # in vain for the living
    assert states(groups) == {"dead": "REMOVED", "living": "CREATED", "driver": "CREATED"}

    ray.kill(living)
    began = time.monotonic()
    orphans.release_all(60.0)
    assert time.monotonic() - began < 60.0
    assert states(groups) == {"dead": "REMOVED", "living": "REMOVED", "driver": "CREATED"}
