"""docs/observability.md names exactly the metrics and events that the code writes."""

import json
import re
from pathlib import Path
from typing import Any

from cpl_ray.config import Config
from cpl_ray.loop import TrainingLoop
from cpl_ray.measures import COUNTS
from cpl_ray.metrics_log import Record
from cpl_ray.mlflow_entries import record_metrics
from cpl_ray.run_log import Place, log_path, logged
from pipelines.stages import final_metrics
from tests.oracle.plain_engine import PlainEngine
from tests.oracle.toy import Rowset, toy_items, toy_model
from tests.report.folders import make_run

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "observability.md").read_text("utf-8")
MASTERED, INJECTION = toy_items(7, seed=1), toy_items(5, seed=2)
RUNS: list[dict[str, Any]] = [
    {"guard": {"mode": "adapt"}, "train": {"refresh": 2, "mastered_state": "full"}},
    {"train": {"rule": "hft"}},
    {"train": {"rule": "replay"}},
]


def first_cells(section: str) -> list[str]:
    """Return the backticked names of the first column of the tables of a section."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def train(folder: Path, sections: dict[str, Any]) -> None:
    base = {"epochs": 4, "micro_batch_size": 5, "mastered_batch_size": 4, "checkpoint_every": None}
    values = {"model": "toy", **sections, "optimizer": {"lr": 1e-3}, "train": {**base, **sections["train"]}}
    config = Config.model_validate(values)
    sets = Rowset(INJECTION), Rowset(MASTERED) if config.mastered_passes != "none" else None
    engine, place = PlainEngine(toy_model(), config), Place(folder.name, rank=0)
    with logged(folder, place):
        TrainingLoop(config, engine, *sets, pad_id=0, run_folder=folder, place=place).run()


def test_metrics_of_the_page_are_those_of_real_loops(tmp_path: Path) -> None:
    found: set[str] = set()
    for number, sections in enumerate(RUNS):
        folder = tmp_path / str(number)
        folder.mkdir()
        train(folder, sections)
        for line in (folder / "metrics.jsonl").read_text().splitlines():
            record = json.loads(line)
            values = {name: value for name, value in record.items() if name not in ("step", "kind", "time")}
            sent = record_metrics(Record(record["kind"], record["step"], record["time"], values))
            if record["kind"] == "train":
                found |= {metric.key for metric in sent}
            else:
                assert f"{record['kind']}/<layer>" in first_cells("Metrics in MLflow")
    named = {name for name in first_cells("Metrics in MLflow") if name.startswith("train/")}
    assert found == named


def test_counts_and_final_numbers_of_the_page_are_those_of_the_code(tmp_path: Path) -> None:
    names = set(first_cells("Metrics in MLflow"))
    assert {name for name in names if name.startswith("eval/")} == {
        "eval/step",
        *(f"eval/{n}" for n in COUNTS.values()),
    }
    result = json.loads((make_run(tmp_path / "run") / "result.json").read_text())
    result["learned_held_out"] = result["learned"]
    assert {name for name in names if name.startswith("final/")} == {
        name for name in final_metrics(result) if not (name.endswith("_share") and name.removesuffix("_share") in names)
    }


def test_events_of_the_page_are_those_of_the_code() -> None:
    texts = [path.read_text("utf-8") for path in (ROOT / "cpl_ray").rglob("*.py")]
    said = {kind for text in texts for kind in re.findall(r'\bevent\("(\w+)"', text)}
    logs = PAGE.partition("\n## Logs\n")[2].partition("\n## ")[0].partition("| event |")[2]
    assert said == set(re.findall(r"^\| `(\w+)` \|", logs, re.MULTILINE))


def test_fields_of_the_page_are_those_of_a_line(tmp_path: Path) -> None:
    train(tmp_path, RUNS[1])
    line = json.loads(log_path(tmp_path, 0).read_text().splitlines()[0])
    rows = PAGE.partition("\n| field |")[2].partition("\n\n")[0].splitlines()
    named = [name for row in rows if row.startswith("| `") for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    assert set(named) - {"traceback"} <= set(line)
    assert set(line) - set(named) == {"total_steps", "world_size"}
