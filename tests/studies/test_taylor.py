"""The study `taylor`: a loss whose expansion is known, a probe that leaves no trace, words that follow the numbers."""

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from cpl_ray.probes.taylor import TaylorProbe
from cpl_ray.studies.taylor import analyse, breaks_at, by_rate, rises_at, with_error
from tests.oracle.toy import toy_model
from tests.oracle.transcription import mean_gradient, token_losses
from tests.studies.probing import MASTERED, rows, same, toy_config, train


@pytest.mark.parametrize("rule", ["none", "cpl"])
def test_the_probe_changes_nothing(rule: str, tmp_path: Path) -> None:
    config = toy_config(rule=rule)
    probe = TaylorProbe(tmp_path, every=2, rates=[1e-3, 1.0])
    assert same(train(config, probe, dropout=0.2), train(config, dropout=0.2))
    assert {row["step"] for row in rows(tmp_path, "steps")} == {0, 2, 4}


def test_predicted_and_measured_are_those_of_the_model(tmp_path: Path) -> None:
    config = toy_config(refresh="epoch", epochs=1, max_steps=1)
    trained = train(config, TaylorProbe(tmp_path, every=1, rates=[1e-6, 1e-2]), dtype=torch.float64)
    model = toy_model(torch.float64)
    count = sum(len(answer) for _, answer in MASTERED)

    def loss(at: torch.nn.Module) -> float:
        return sum(float(token_losses(at, item).detach()) for item in MASTERED) / count

    moved = [(a - b).detach() for a, b in zip(trained.parameters(), model.parameters(), strict=True)]
    slope = sum(float((g * d).sum()) for g, d in zip(mean_gradient(model, MASTERED), moved, strict=True))
    found = {(row["direction"], row["rate"]): row for row in rows(tmp_path, "steps")}
    # the run's own rate is 1e-2, so that row is the step that was made
    assert found["applied", 1e-2]["predicted"] == pytest.approx(slope, rel=1e-6)
    assert found["applied", 1e-2]["measured"] == pytest.approx(loss(trained) - loss(model), rel=1e-9)
    tiny = found["applied", 1e-6]
    assert tiny["measured"] == pytest.approx(tiny["predicted"], rel=1e-2)
    assert found["applied", 1e-6]["predicted"] <= 0  # by construction of the mask
    assert found["unmasked", 1e-6]["predicted"] != found["applied", 1e-6]["predicted"]


def of_quadratic(rates: list[float]) -> pa.Table:
    """Return the steps of L = x^2 / 2 at x = 1 along its gradient: -lr predicted, -lr + lr^2 / 2 true."""
    made = [
        {"step": 0, "direction": direction, "rate": r, "rate_used": 0.1, "loss": 0.5, "predicted": -r, "measured": true}
        for r in rates
        for direction, true in (("applied", -r + r * r / 2), ("unmasked", r))
    ]
    return pa.Table.from_pylist(made)


def test_a_quadratic_breaks_where_it_must() -> None:
    # the error is lr / 2: above 50 % beyond 1, and the loss rises beyond 2
    steps = of_quadratic([1e-9, 0.1, 0.9, 1.1, 1.9, 2.1])
    records = with_error(steps).to_pylist()
    applied = by_rate(records, "applied")
    assert [one["error"] for one in applied] == [None, *(pytest.approx(r / 2) for r in (0.1, 0.9, 1.1, 1.9, 2.1))]
    assert (breaks_at(applied), rises_at(applied)) == (1.1, 2.1)
    found = analyse({"steps": steps}, 0.1)
    assert (found.headline["breaks_at"], found.headline["rises_at"]) == (1.1, 2.1)
    assert found.headline["unmasked_rises_at"] == 0.1
    assert "an error of 5.0 %, so first order holds there" in found.verdict
    assert "breaks (median error above 50%) from the rate 1.1 on" in found.verdict
    assert "turns positive at some moment, against the prediction, at 2.1" in found.verdict


def test_what_did_not_break_is_said() -> None:
    found = analyse({"steps": of_quadratic([0.1, 0.2])}, 0.1)
    assert "does not break" in found.verdict
    assert "turned positive at no rate tried" in found.verdict
    assert found.headline["breaks_at"] is None
