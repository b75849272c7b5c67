"""Two of the drills of `make drills`, hit while the whole job trains (world size 2); all take most of an hour."""

import shutil

import pytest

from tests.drills.cells import Wanted
from tests.drills.jobs import RUN_JOB
from tests.drills.rounds import drilled
from tests.drills.verdict import verdict
from tests.ray.conftest import World

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1500)]  # minutes; many where other work takes the cores
HIT = ("kill -9, the raylet", "kill -9, Ray Train's controller")


def test_killed_in_training_and_continued(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    own = World(tmp_path_factory.mktemp("drills"))  # a store and a registry of its own
    shutil.copytree(world.folder / "model", own.folder / "model")
    shutil.copy(world.folder / "items.jsonl", own.folder)
    drills = list(drilled(own, RUN_JOB, Wanted(kind="|".join(HIT), stage="training", seed=1)))
    assert {drill.kind: drill.faults for drill in drills} == {kind: [] for kind in HIT}
    assert {drill.exit_codes[-1] for drill in drills} == {0}
    assert {drill.stage for drill in drills} == {"training"}
    found = verdict(drills)
    assert (found.hit, found.survived, found.exit_code) == (len(HIT), len(HIT), 0)
