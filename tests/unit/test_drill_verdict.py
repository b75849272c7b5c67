"""What counts of a round of drills, and which drills a round is made of."""

import random
from pathlib import Path

import pytest

from tests.drills.blows import KINDS, Blow
from tests.drills.cells import ALWAYS, FAULTS, Wanted, drawn, faults, kinds, unseen
from tests.drills.drill import Drill
from tests.drills.jobs import RUN_JOB, SWEEP_JOB
from tests.drills.table import table
from tests.drills.verdict import verdict

DRIVER, RAYLET, RANK = "kill -9, the driver", "kill -9, the raylet", "kill -9, rank 0"
LIVES = {
    (DRIVER, "assessing"): (0.0, 13.0),
    (DRIVER, "training"): (0.0, 20.0),
    (DRIVER, "evaluating"): (0.0, 8.0),
    (DRIVER, "registering"): (0.0, 1.9),
    (RAYLET, "assessing"): (3.0, 13.0),
    (RAYLET, "training"): (0.0, 20.0),
    (RAYLET, "evaluating"): (0.0, 8.0),
    (RAYLET, "registering"): (0.0, 0.3),
    (RANK, "training"): (16.0, 17.5),
    (RANK, "evaluating"): (0.0, 0.4),
}


def drill(kind: str = DRIVER, *, found: bool = True, aim: str = "training", lost: str = "", skipped: str = "") -> Drill:
    """Return a made record."""
    if skipped:
        return Drill.without_hit(kind, "run", aim, skipped=skipped)
    return Drill(
        kind=kind,
        verb="run",
        aim=aim,
        found=found,
        stage=aim if found else "",
        updates=7,
        exit_codes=[-9, 0] if found else [0],
        faults=[lost] if lost else [],
    )


SURVIVED, LOST = drill(), drill(RAYLET, lost="2 tensors differ")
MISSED, SKIPPED = drill(RAYLET, found=False), drill(RANK, skipped="needs root")


@pytest.mark.parametrize(
    ("drills", "said", "exit_code"),
    [
        ([SURVIVED], "1 hit, 1 survived, 0 not hit, 0 skipped", 0),
        ([SURVIVED, LOST], "2 hit, 1 survived, 0 not hit, 0 skipped", 1),
        ([SURVIVED, MISSED], "1 hit, 1 survived, 1 not hit, 0 skipped", 1),
        ([SURVIVED, SKIPPED], "1 hit, 1 survived, 0 not hit, 1 skipped", 0),
        ([SKIPPED, SKIPPED], "0 hit, 0 survived, 0 not hit, 2 skipped", 1),
        ([MISSED], "0 hit, 0 survived, 1 not hit, 0 skipped", 1),
        ([], "0 hit, 0 survived, 0 not hit, 0 skipped", 1),
    ],
)
def test_only_drills_that_hit_count(drills: list[Drill], said: str, exit_code: int) -> None:
    found = verdict(drills)
    assert (str(found), found.exit_code) == (said, exit_code)


def test_a_kind_is_missing_only_if_no_round_hit_it_in_its_stage() -> None:
    assert verdict([SURVIVED, MISSED, drill(RAYLET)]).exit_code == 0
    found = verdict([SURVIVED, MISSED, drill(RAYLET, aim="evaluating")])
    assert (found.missing, found.exit_code) == ((f"run, {RAYLET}, training",), 1)
    never_seen = verdict([SURVIVED, Drill.without_hit(RANK, "run")])
    assert (never_seen.missing, never_seen.exit_code) == ((f"run, {RANK}",), 1)


def test_faults_of_a_drill_without_hit_are_not_a_loss() -> None:
    missed = drill(RAYLET, found=False, lost="exit code 5")
    assert (verdict([missed]).survived, missed.survived, SURVIVED.survived) == (0, False, True)


def test_table_counts_by_stage() -> None:
    late = drill(aim="registering", lost="2 versions of the model are registered")
    rows = table([SURVIVED, drill(), late, MISSED, SKIPPED]).splitlines()[2:]
    assert rows == [
        f"| run | {DRIVER} | training | 2 | 2 | 7, 7 | -9, 0; -9, 0 |",
        f"| run | {DRIVER} | registering | 1 | 0 | 7 | -9, 0 |",
        f"| run | {RAYLET} | training | 0 | - | - | not hit |",
        f"| run | {RANK} | training | 0 | - | - | skipped |",
    ]


@pytest.mark.parametrize("seed", range(10))
def test_driver_and_raylet_are_always_hit_late_and_once_before(seed: int) -> None:
    cells = drawn(LIVES, random.Random(seed), every_stage=False)
    for kind in (DRIVER, RAYLET):
        stages = [stage for one, stage in cells if one == kind]
        assert stages[0] in ("assessing", "training")
        assert stages[1:] == list(ALWAYS[kind]) == ["evaluating", "registering"]
    assert [stage for kind, stage in cells if kind == RANK] == ["training"]


def test_every_stage_leaves_out_only_what_is_passing() -> None:
    assert drawn(LIVES, random.Random(0), every_stage=True) == [cell for cell in LIVES if cell != (RANK, "evaluating")]
    passing = {(RANK, "evaluating"): (0.0, 0.2)}
    assert drawn(passing, random.Random(0), every_stage=False) == list(passing)


def test_moments_lie_in_the_life_and_short_ones_are_hit_at_once(tmp_path: Path) -> None:
    yielded = list(faults(tmp_path, RUN_JOB, LIVES, 16, Wanted(seed=3)))
    blows = {(one.kind, one.stage): one for _, _, one in yielded if isinstance(one, Blow)}
    assert blows[RAYLET, "registering"].delay_s == 0.0
    assert 0.0 < blows[DRIVER, "registering"].delay_s < 0.9 * 1.9
    assert 0 < blows[RANK, "training"].update < 15
    kinds_hit = [kind for _, kind, _ in yielded]
    assert [kind for kind in FAULTS[RUN_JOB] if kind not in kinds_hit] == []
    servers = {one.stage for _, kind, one in yielded if "MLflow" in kind}
    assert servers == {"assessing", "training", "evaluating", "registering"}
    again = faults(tmp_path / "again", RUN_JOB, LIVES, 16, Wanted(seed=3))
    assert [(one.update, one.delay_s) for _, _, one in again] == [(one.update, one.delay_s) for _, _, one in yielded]


def test_filters(tmp_path: Path) -> None:
    wanted = Wanted(kind="driver|MLflow", stage="registering")
    assert [(kind, fault.stage) for _, kind, fault in faults(tmp_path, RUN_JOB, LIVES, 16, wanted)] == [
        (DRIVER, "registering"),
        ("kill -9, the MLflow server while registering", "registering"),
    ]


def test_a_kind_that_never_lived_is_told_but_where_a_job_has_none() -> None:
    lives = {(kind, "trials"): (0.0, 9.0) for kind in KINDS if kind not in (RAYLET, "kill -9, another rank")}
    assert unseen(SWEEP_JOB, lives, Wanted()) == [RAYLET]
    assert unseen(SWEEP_JOB, lives, Wanted(kind="rank 0")) == []
    assert "kill -9, a trial's driver" not in kinds([RUN_JOB])
    assert "kill -9, a trial's driver" in kinds([RUN_JOB, SWEEP_JOB])
