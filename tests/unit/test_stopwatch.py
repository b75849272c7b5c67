"""The stopwatch: every second is in exactly one phase."""

import time

import pytest

from cpl_ray.stopwatch import Stopwatch, carve, computed, measured, phase


class Clock:
    """A clock that is set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def test_phases_share_the_time_without_gap_or_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    watch = Stopwatch("start", started=90.0)
    with measured(watch):
        clock.now += 5
        with phase("train"):
            clock.now += 7
            with phase("ask"):
                clock.now += 11
                computed(8)
            clock.now += 2
            carve("updates", 4, model=True)
            carve("load", 1)
        with phase("ask"):
            clock.now += 3
            computed(3)
        clock.now += 1
    told = watch.to_dict()
    assert {one["name"]: (one["wall_s"], one["model_s"], one["overhead_s"]) for one in told["phases"]} == {
        "start": (16, 0, 16),  # 10 before it was made, 5 before and 1 after the phases
        "train": (4, 0, 4),
        "ask": (14, 11, 3),
        "updates": (4, 4, 0),
        "load": (1, 0, 1),
    }
    assert (told["wall_s"], told["model_s"], told["overhead_s"]) == (39, 15, 24)


def test_without_a_stopwatch_nothing_is_counted_and_a_failure_leaves_its_phase() -> None:
    with phase("nothing"):
        computed(1)
        carve("nothing", 1)
    watch = Stopwatch("start")
    with measured(watch):
        with pytest.raises(RuntimeError), phase("broken"):
            raise RuntimeError
        with phase("next"):
            computed(2)
    assert {one.name: one.model_s for one in watch.phases} == {"start": 0, "broken": 0, "next": 2}
