"""`cpl doctor` on a Ray session of its own: what is well, and what is wrong, all of it at once."""

import json

import pytest

from tests.ray.conftest import World

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
CONFIG = "model: model\ndata: {items: items.jsonl}\n"


def checks(said: str) -> dict[str, dict[str, object]]:
    events = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    return {event["what"]: event for event in events if event["event"] == "check"}


def test_all_is_well(world: World) -> None:
    (world.folder / "doctor.yaml").write_text(CONFIG)
    out, said = world.cpl("doctor", "doctor.yaml", "cluster.num_workers=2", "tracking.experiment=new", "--json")
    found = json.loads(out)["checks"]
    assert [one["what"] for one in found] == ["versions", "model", "disk", "cluster", "shared storage", "MLflow"]
    assert all(one["ok"] for one in found)
    assert set(checks(said)) == {one["what"] for one in found}
    by_name = {one["what"]: one["found"] for one in found}
    assert by_name["cluster"].endswith("the run takes 2 and 0")
    assert by_name["shared storage"] == f"{world.runs} written, read back and deleted on 1 node"
    assert "experiment 'new' will be made" in by_name["MLflow"]
    assert list(world.runs.glob(".cpl-storage*")) == []


def test_everything_wrong_is_told_at_once(world: World) -> None:
    (world.folder / "doctor.yaml").write_text(CONFIG)
    (world.folder / "hollow").mkdir(exist_ok=True)
    (world.folder / "hollow" / "config.json").write_text("{}")
    (world.folder / "plain").write_text("")
    out, said = world.cpl(
        "doctor",
        "doctor.yaml",
        "model=hollow",
        "run.dir=plain/runs",
        "cluster.use_gpu=true",
        "--json",
        exit_code=1,
        MLFLOW_TRACKING_URI="http://somebody:hunter2@127.0.0.1:1",
    )
    found = checks(said)
    assert [what for what, one in found.items() if not one["ok"]] == [
        "model",
        "disk",
        "cluster",
        "shared storage",
        "MLflow",
    ]
    assert "lacks weights (*.safetensors)" in str(found["model"]["found"])
    assert "is not a writable folder" in str(found["disk"]["found"])
    assert "too few GPUs" in str(found["cluster"]["found"])
    assert "this machine cannot write to" in str(found["shared storage"]["found"])
    assert "Connection refused" in str(found["MLflow"]["found"])
    assert "hunter2" not in out + said
    assert json.loads(out)["error"]["message"].startswith("5 things are wrong:")
