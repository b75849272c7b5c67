"""A study through Ray, from the command line to MLflow."""

import json

import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from tests.ray.conftest import World

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]  # minutes where other work takes the cores
CONFIG = """\
model: model
data: {items: items.jsonl}
split: {mastered_validation: 0.2, mastered_test: 0.2}
assess: {scorer: exact_match, max_new_tokens: 4}
train: {micro_batch_size: 4, mastered_batch_size: 8, epochs: 2}
optimizer: {lr: 1.0e-3}
cluster: {num_workers: 2}
"""
COLUMNS = {
    "course": {"step", "numel", "conflict", "zero", "similarity", "loss_mastered", "loss_injection"},
    "parameters": {"step", "parameter", "layer", "type", "numel", "conflict", "similarity"},
    "histogram": {"side", "log10_low", "log10_high", "count"},
    "items": {"id", "similarity", "cosine", "loss", "forgotten", "before_margin"},
}


def test_similarity_writes_data_figures_verdict_and_tracks_them(world: World) -> None:
    (world.folder / "study.yaml").write_text(CONFIG)
    settings = ("study.items=4", "study.every=4", "run.name=asked")
    out, _ = world.cpl("study", "similarity", "study.yaml", "--json", *settings)
    result = json.loads(out)
    assert (result["ok"], result["study"]) == (True, "similarity")
    folder = world.runs / "asked"
    tables = {path.stem: pq.read_table(path) for path in (folder / "data").glob("*.parquet")}
    assert tables.keys() == COLUMNS.keys()
    assert [name for name, columns in COLUMNS.items() if not columns <= set(tables[name].column_names)] == []
    assert tables["items"].num_rows == 4
    assert {path.name for path in (folder / "figures").iterdir()} == {
        "course.png",
        "histogram.png",
        "items.png",
        "shares.png",
    }
    page = json.loads((folder / "study.json").read_text())
    assert page["headline"] == result["headline"]
    assert 0 < page["headline"]["conflict_share"] < 1
    assert page["verdict"] in (folder / "verdict.md").read_text()
    client = MlflowClient(f"sqlite:///{world.runs / 'mlflow.db'}")
    tracked = json.loads((folder / "tracking.json").read_text())["run_id"]
    run = client.get_run(tracked)
    assert run.info.status == "FINISHED"
    assert run.data.params["study.items"] == "4"
    assert run.data.metrics["study/conflict_share"] == pytest.approx(page["headline"]["conflict_share"])
    files = {one.path for one in client.list_artifacts(tracked)}
    assert {"data", "figures", "verdict.md", "study.json"} <= files
    assert "data/items.parquet" in {one.path for one in client.list_artifacts(tracked, "data")}


def test_an_unknown_study_names_the_known_ones(world: World) -> None:
    (world.folder / "study.yaml").write_text(CONFIG)
    _, err = world.cpl("study", "similarities", "study.yaml", exit_code=3)
    assert "there is no study 'similarities'; valid are similarity, taylor, stability" in err
