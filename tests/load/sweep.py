"""A sweep with many more trials than cores: all end, each is in the book and in MLflow once."""

import argparse
import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import psutil

from tests.ray.conftest import World, build_model, facts, left_behind, write_rows

HANG_S = 3 * 3600.0
SWEEP = """\
model: model
data: {items: items.jsonl}
split: {mastered_validation: 0.3, mastered_test: 0.3}
assess: {scorer: exact_match, max_new_tokens: 4}
train: {micro_batch_size: 4, mastered_batch_size: 8, epochs: 2, checkpoint_every: null}
evaluate: {every: null}
budget: {max_forgetting: 1, min_learned: 0}
search:
  space:
    optimizer.lr: {loguniform: [1.0e-4, 1.0e-2]}
  trials: TRIALS
  algorithm: random
run: {name: load}
"""


def tree_bytes(root: int) -> int:
    """Return the memory of a process and all below it; pages that they share count for each."""
    total = 0
    try:
        process = psutil.Process(root)
        for one in [process, *process.children(recursive=True)]:
            total += one.memory_info().rss
    except psutil.NoSuchProcess:  # one ended while we looked
        pass
    return total


def run(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Run the sweep and look at what it left."""
    world = World(folder)
    build_model(folder / "model")
    write_rows(folder / "items.jsonl", facts())
    (folder / "load.yaml").write_text(SWEEP.replace("TRIALS", str(chosen.trials)))
    begun, most, processes = time.monotonic(), 0, 0
    said_path = folder / "said.txt"
    with said_path.open("w") as said:
        process = world.start("sweep", "load.yaml", stderr=said.fileno())
        while process.poll() is None:
            if time.monotonic() - begun > HANG_S:
                process.kill()
            most = max(most, tree_bytes(process.pid))
            processes = max(processes, len(psutil.Process().children(recursive=True)))
            time.sleep(2.0)
        process.communicate()
    book = json.loads((world.runs / "load" / "sweep.json").read_text()) if process.returncode == 0 else {"trials": []}
    states = [trial["state"] for trial in book["trials"]]
    faults = []
    if process.returncode:
        faults.append(f"exit code {process.returncode}: {said_path.read_text()[-500:]}")
    if states != ["finished"] * chosen.trials:
        faults.append(f"{states.count('finished')} of {chosen.trials} trials finished, the book has {len(states)}")
    if left := left_behind(process):
        faults.append(f"processes left: {left}")
    children = 0
    if (world.runs / "mlflow.db").exists():
        with sqlite3.connect(world.runs / "mlflow.db") as store:
            asked = "SELECT COUNT(*) FROM tags JOIN runs USING (run_uuid) WHERE key = 'mlflow.parentRunId'"
            children = store.execute(f"{asked} AND status = 'FINISHED'").fetchone()[0]
    if children != chosen.trials:
        faults.append(f"MLflow has {children} finished runs of trials")
    return {
        "trials": chosen.trials,
        "minutes": round((time.monotonic() - begun) / 60, 1),
        "most_mib": most >> 20,
        "most_processes": processes,
        "faults": faults,
    }
