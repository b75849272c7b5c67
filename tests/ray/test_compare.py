"""A comparison through Ray Tune, one worker a trial: killed, resumed, both tables and the MLflow runs."""

import json

import pytest
from mlflow import MlflowClient

from cpl_ray.ledger import read_ledger
from tests.ray.conftest import AFTER_KILL_S, World, left_behind, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]  # minutes where other work takes the cores
COMPARE = """\
model: model
data: {items: items.jsonl}
split: {mastered_validation: 0.3, mastered_test: 0.3}
assess: {scorer: exact_match, max_new_tokens: 4}
train: {micro_batch_size: 4, mastered_batch_size: 8, epochs: 8, checkpoint_every: 4, stop_at_learned: 0.5}
budget: {max_forgetting: 0.3}
evaluate: {in_set: false}
compare:
  methods: [cpl, fine_tuning]
  rates: [3.0e-3]
  seeds: [0, 1]
"""


def test_killed_and_resumed_comparison(world: World) -> None:
    (world.folder / "compare.yaml").write_text(COMPARE)
    folder = world.runs / "compare"
    process = world.start("compare", "compare.yaml", "run.name=compare")
    until(lambda: any(folder.glob("trials/*/result.json")), 400)  # the book may not know of it yet
    process.kill()
    process.communicate()
    assert left_behind(process, AFTER_KILL_S) == []
    measured = {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/result.json")}
    _, said = world.cpl(
        "compare", "compare.yaml", "run.name=compare", "run.resume=true", "compare.seeds=[5]", exit_code=3
    )
    assert "compare.seeds was [0, 1], now [5]" in said

    out, said = world.cpl("compare", "compare.yaml", "run.name=compare", "run.resume=true", "--json")
    after = json.loads(out)
    assert f"{len(measured)} of them done before" in said
    assert {path: path.stat().st_mtime_ns for path in measured} == measured
    assert {trial["state"] for trial in after["trials"]} == {"finished"}
    rows = {row["method"]: row for row in after["methods"]}
    for name, state_bytes in (("cpl", 8.375), ("fine_tuning", 8.0)):  # two moments; signs and classes
        found = rows[name]["at_target"]
        assert found["seeds"] == [0, 1]
        assert found["state_bytes_per_param"] == pytest.approx(state_bytes, abs=0.01)  # one step counter a tensor
        assert found["seconds_per_update"] > 0
    tested = rows["fine_tuning"]["mcnemar"]
    pairs = sum(tested[cell] for cell in ("both", "only_first", "only_second", "neither"))
    assert pairs == rows["cpl"]["at_target"]["forgotten"]["held_out"]["of"]

    for trial in after["trials"]:
        place = folder / trial["run_dir"]
        # the counts of the tables are those of the trial's own ledger
        flips = read_ledger(place / "flips.parquet").select(["part", "flip"]).to_pylist()
        lost = [row for row in flips if (row["part"], row["flip"]) == ("mastered_test", "forgotten")]
        assert trial["forgotten"]["held_out"]["count"] == len(lost)
        # what was kept inside the budget is the evaluation during training that learned most there
        lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
        inside = [
            (line["learned"], -line["step"])
            for line in lines
            if line["kind"] == "eval" and line["forgotten_validation"] <= 0.3 * line["forgotten_validation_of"]
        ]
        assert not any(line["forgotten_in_set_of"] for line in lines if line["kind"] == "eval")  # M train is not asked
        best = max(inside, default=(0, 0))
        kept = trial["inside_budget"]
        assert (kept is None) == (best[0] == 0)
        if kept is not None:
            assert (kept["learned"]["count"], kept["step"]) == (best[0], -best[1])
    for name in ("compare.md", "table.csv", "trials.csv", "report.html", "figures/curves.png"):
        assert (folder / name).stat().st_size > 0

    client = MlflowClient(f"sqlite:///{world.runs / 'mlflow.db'}")
    tracked = json.loads((folder / "tracking.json").read_text())
    runs = client.search_runs([tracked["experiment_id"]], f"tags.`mlflow.parentRunId` = '{tracked['run_id']}'")
    assert len(runs) == len(after["trials"])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["cpl_ray.method"] for run in runs} == {"cpl", "fine_tuning"}
