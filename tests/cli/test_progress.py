"""What is said while training runs: evaluations and lost workers, whatever else the file holds."""

import json
from pathlib import Path
from typing import Any

from pipelines.progress import training_progress


def line(kind: str, step: int, **values: float) -> str:
    return json.dumps({"step": step, "kind": kind, "time": 1.0, **values}) + "\n"


def test_records_by_layer_are_neither_evaluations_nor_lost_workers(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    said: list[str] = []

    def say(message: str, *, event: str = "say", **fields: Any) -> None:
        said.append(message)

    with training_progress(path, say, planned=3):
        lines = []
        for step in (1, 2, 3):
            lines.append(line("train", step, loss_injection=1.0))
            lines.append(line("layers", step, norm=0.5) + line("layer_flips", step, norm=0.1))
        path.write_text("".join(lines) + line("eval", 3, learned=2, learned_of=4) + line("layers", 3, norm=0.5))
    assert said == ["update     3 | loss I 1.000 | learned 2/4"]
