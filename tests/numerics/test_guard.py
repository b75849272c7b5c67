"""The guard of finite steps on a plain engine in float64: what it measures, where it cuts, and what it leaves alone."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cpl_ray.config import Config
from cpl_ray.errors import NonFiniteError
from cpl_ray.guard import guard_summary, safe_share
from cpl_ray.loop import TrainingLoop
from cpl_ray.loop_state import LoopState
from cpl_ray.notices import notices
from tests.oracle import transcription
from tests.oracle.plain_engine import PlainEngine
from tests.oracle.toy import Rowset, toy_items, toy_model

MASTERED, INJECTION = toy_items(7, seed=1), toy_items(5, seed=2)
BATCH = 4
BREAKS = {"name": "adamw", "lr": 1.0}  # a rate at which first order does not hold
HOLDS = {"name": "adamw", "lr": 1e-4}


class WatchedEngine(PlainEngine):
    """Keeps the parameters before each update, and at the end."""

    def __init__(self, model: nn.Module, config: Config) -> None:
        super().__init__(model, config)
        self.seen: list[Tensor] = []

    def snapshot(self) -> None:
        self.seen.append(torch.cat([p.detach().reshape(-1) for p in self.module.parameters()]).clone())

    def update(self) -> float:
        self.snapshot()
        return super().update()


def run(
    folder: Path | None, optimizer: dict[str, Any], guard: dict[str, Any], *, dropout: float = 0.0, **train: Any
) -> tuple[LoopState, list[dict[str, Any]], WatchedEngine]:
    base = {"epochs": 8, "micro_batch_size": 5, "mastered_batch_size": BATCH, "shuffle": False}
    values = {"model": "toy", "optimizer": optimizer, "guard": guard}
    config = Config.model_validate({**values, "train": {**base, "checkpoint_every": None, **train}})
    engine = WatchedEngine(toy_model(torch.float64, dropout=dropout), config)
    loop = TrainingLoop(config, engine, Rowset(INJECTION), Rowset(MASTERED), pad_id=0, run_folder=folder)
    state = loop.run()
    engine.snapshot()
    lines = (folder / "metrics.jsonl").read_text().splitlines() if folder else []
    records = [record for line in lines if (record := json.loads(line))["kind"] == "train"]
    return state, records, engine


def loss_of(weights: Tensor, rows: list[int]) -> float:
    """The mean token loss of mastered rows at given weights, dropout off, by the transcription."""
    model = toy_model(torch.float64).eval()
    torch.nn.utils.vector_to_parameters(weights, model.parameters())
    with torch.no_grad():
        total = sum(float(transcription.token_losses(model, MASTERED[row])) for row in rows)
    return total / sum(len(MASTERED[row][1]) for row in rows)


@given(
    descent=st.floats(-1.0, 10.0),
    curvature=st.floats(0.01, 100.0),
    allowed=st.sampled_from([0.0, 1e-3, 0.1]),
)
def test_half_of_the_curvature_bound(descent: float, curvature: float, allowed: float) -> None:
    def loss(share: float) -> float:  # eta = 1: descent = d . g_M, curvature = d' H d
        return 3.0 - share * descent + share**2 * curvature / 2

    if loss(1.0) <= 3.0 + allowed + 1e-6:
        return  # such a step holds and is not cut
    bound = 2 * safe_share(3.0, loss(0.5), loss(1.0), allowed)
    assert 0.125 <= bound <= 1.0
    if allowed == 0.0:
        assert bound == pytest.approx(max(0.125, 2 * descent / curvature), abs=1e-6)
    if bound > 0.125:
        assert loss(bound) == pytest.approx(3.0 + allowed, abs=1e-6)


def test_safe_share_where_there_is_nothing_to_fit() -> None:
    assert safe_share(1.0, 2.0, math.inf, 0.0) == 0.25
    assert safe_share(1.0, math.nan, 2.0, 0.0) == 0.25
    assert safe_share(1.0, 1.6, 2.0, 0.5) == pytest.approx(0.403709 / 2, abs=1e-5)  # concave: 1 + 1.4 c - 0.4 c^2
    assert safe_share(1.0, 1.6, 2.0, 0.0) == 1 / 16  # rising from the start on, as far as three points can tell


@pytest.mark.parametrize("refresh", [1, 3])
def test_monitor_measures_what_an_independent_forward_finds(tmp_path: Path, refresh: int) -> None:
    _, records, engine = run(tmp_path, HOLDS, {"mode": "monitor"}, dropout=0.3, refresh=refresh)
    assert len(records) == 8
    for step, record in enumerate(records):
        refreshes = step // refresh
        rows = [position % len(MASTERED) for position in range(refreshes * BATCH, (refreshes + 1) * BATCH)]
        before, after = (loss_of(weights, rows) for weights in engine.seen[step : step + 2])
        assert record["mastered_loss_before"] == pytest.approx(before, abs=1e-12)
        assert record["mastered_loss_after"] == pytest.approx(after, abs=1e-12)
        assert record["measured_change"] == pytest.approx(after - before, abs=1e-12)
        assert record["held"] == float(after <= before)


def test_prediction_of_a_small_step_is_what_is_measured(tmp_path: Path) -> None:
    state, records, _ = run(tmp_path, {"name": "sgd", "lr": 1e-5}, {"mode": "monitor"}, mastered_state="full")
    for record in records:
        assert record["measured_change"] == pytest.approx(record["predicted_change"], rel=0.01)
        assert record["predicted_change"] < 0
    assert state.guard == {"steps": 8, "held": 8, "cut": 0, "undone": 0}


@pytest.mark.parametrize("mode", ["monitor", "adapt", "rollback"])
def test_where_steps_hold_the_guard_changes_no_bit(tmp_path: Path, mode: str) -> None:
    plain, _, unguarded = run(None, HOLDS, {}, dropout=0.3)
    # with dropout the eval loss may rise a little although g_M's own fell
    state, records, guarded = run(tmp_path, HOLDS, {"mode": mode, "tolerance": 0.5}, dropout=0.3)
    assert plain.guard == {}
    assert state.guard == {"steps": 8, "held": 8, "cut": 0, "undone": 0}
    assert all(torch.equal(a, b) for a, b in zip(unguarded.seen, guarded.seen, strict=True))
    assert all(record.get("step_scale", 1.0) == 1.0 for record in records)
    assert state.sums == plain.sums


@pytest.mark.parametrize("tolerance", [0.0, 0.02])
def test_the_loss_does_not_rise_where_the_unguarded_rule_breaks(tmp_path: Path, tolerance: float) -> None:
    for mode in ("monitor", "adapt", "rollback"):
        (tmp_path / mode).mkdir()
        state, records, _ = run(tmp_path / mode, BREAKS, {"mode": mode, "tolerance": tolerance})
        worst = max(record["measured_change"] / record["mastered_loss_before"] for record in records)
        tally = state.guard
        assert tally["held"] == sum(record["held"] for record in records)
        if mode == "monitor":
            assert tally["held"] < tally["steps"] == 8
            assert tally["cut"] == tally["undone"] == 0
            assert worst > 0.2
        else:
            assert worst <= tolerance + 1e-12
            assert tally["held"] + tally["cut"] + tally["undone"] == tally["steps"] == 8
            assert tally["cut"] >= 1
            scales = [record["step_scale"] for record in records]
            assert sum(0 < scale < 1 for scale in scales) == tally["cut"]
            assert state.moved_against == 0


@pytest.mark.parametrize("mode", ["adapt", "rollback"])
def test_a_cut_step_is_the_step_at_a_smaller_rate(tmp_path: Path, mode: str) -> None:
    _, (record,), cut = run(tmp_path, BREAKS, {"mode": mode}, max_steps=1)
    assert 0 < record["step_scale"] < 1
    smaller = BREAKS | {"lr": BREAKS["lr"] * record["step_scale"]}
    _, _, small = run(None, smaller, {}, max_steps=1)
    torch.testing.assert_close(cut.seen[-1], small.seen[-1], rtol=0, atol=1e-12)
    for a, b in zip(cut.optimizer.flat_params, small.optimizer.flat_params, strict=True):
        for name in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(cut.optimizer.state[a][name], small.optimizer.state[b][name])
    if mode == "rollback":
        assert math.log2(record["step_scale"]) == int(math.log2(record["step_scale"]))  # shrink is 0.5


@pytest.mark.parametrize("mode", ["adapt", "rollback"])
def test_a_step_beyond_mending_is_left_out_bit_for_bit(tmp_path: Path, mode: str) -> None:
    far = {"name": "adamw", "lr": 1e306}  # the loss is not finite after it, however often it is halved
    state, (record,), engine = run(tmp_path, far, {"mode": mode, "max_retries": 3}, max_steps=1)
    assert torch.equal(engine.seen[0], engine.seen[1])
    assert state.guard == {"steps": 1, "held": 0, "cut": 0, "undone": 1}
    assert (record["step_scale"], record["measured_change"], record["moved_share"]) == (0.0, 0.0, 0.0)
    assert all(float(engine.optimizer.state[param]["step"]) == 1 for param in engine.optimizer.flat_params)
    with pytest.raises(NonFiniteError, match="would have cut the step"):
        run(None, far, {"mode": "monitor"}, max_steps=1)


def test_summary_and_notices() -> None:
    assert guard_summary("adapt", {}) is None
    counts = {"steps": 8, "held": 6, "cut": 1, "undone": 1}
    assert guard_summary("adapt", counts) == {"mode": "adapt", **counts, "share": 0.75}

    def without_effect(rule: str, **guard: Any) -> list[str]:
        values = {"model": "toy", "train": {"rule": rule}, "guard": guard}
        return [text.split(" ")[0] for text in notices(Config.model_validate(values))]

    assert without_effect("cpl", tolerance=0.1) == ["guard.tolerance"]
    assert without_effect("cpl", mode="monitor", shrink=0.4, max_retries=2) == ["guard.shrink", "guard.max_retries"]
    assert without_effect("cpl", mode="adapt", tolerance=0.1, max_retries=2) == []
    assert without_effect("none", mode="adapt") == ["guard.mode"]
