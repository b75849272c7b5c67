"""Many drivers at once on one SQLite store: each follows a run of its own, then registers its model."""

import argparse
import json
import logging
import multiprocessing as mp
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

from cpl_ray.config import Config
from cpl_ray.recorder import Recorder
from cpl_ray.registry import register
from cpl_ray.tracking import Tracker
from tests.tracking.runs import make_config, make_model, with_config

HANG_S = 1800.0
VALUES = 12
"""Numbers of a record, about as many as an update has."""


class Kept(logging.Handler):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self.said.append(record.getMessage())


def values(step: int) -> dict[str, float]:
    """Return the numbers of a record, told apart by step and name."""
    return {f"value_{number}": step + number / 100 for number in range(VALUES)}


def write(folder: str, name: str, updates: int, start: Any) -> None:
    """Be one driver: track a run while its records are written, finish it, register a model; leave what was said."""
    kept = Kept()
    logging.getLogger("cpl_ray").addHandler(kept)
    root = Path(folder)
    config: Config = with_config(make_config(root), run={"name": name, "dir": folder})
    run = root / name
    run.mkdir()
    make_model(run / "model", seed=int(name))
    start.wait()  # all make the store at the same moment
    begun = time.monotonic()
    tracker = Tracker.open(config, run, resume=False)
    tracker.log_params(config.model_dump())
    recorder = Recorder(run / "metrics.jsonl", 0)
    tracker.follow(run / "metrics.jsonl", poll_s=0.05)
    for step in range(1, updates + 1):
        recorder.write("train", step, values(step))
        if step % 10 == 0:
            recorder.write("eval", step, {"learned": float(step)})
        time.sleep(0.02)
    recorder.close()
    tracker.log_metrics({"final/learned": 1.0}, step=updates)
    tracker.flush(60.0)
    tracker.finish(timeout_s=60.0)
    tracked = tracker.run
    version = None if tracked is None else register(config, run, tracked).version
    found = {"said": kept.said, "missing": tracker.missing, "lost": tracker.lost, "version": version}
    found |= {"run_id": None if tracked is None else tracked.run_id, "seconds": time.monotonic() - begun}
    (root / f"{name}.json").write_text(json.dumps(found))


def expected(updates: int) -> Counter[tuple[str, int, float]]:
    """Return every point that one run must have, once."""
    points = Counter({("final/learned", updates, 1.0): 1})
    for step in range(1, updates + 1):
        points.update(("train/" + name, step, value) for name, value in values(step).items())
        points[("train/step", step, float(step))] += 1
        if step % 10 == 0:
            points.update([("eval/learned", step, float(step)), ("eval/step", step, float(step))])
    return points


def compared(store: sqlite3.Connection, run_id: str | None, wanted: Counter[tuple[str, int, float]]) -> tuple[int, int]:
    """Return how many points of a run the store lacks, and how many it has that are not wanted or more than once."""
    rows = store.execute("SELECT key, step, value FROM metrics WHERE run_uuid = ?", (run_id,))
    points = Counter((key, int(step), float(value)) for key, step, value in rows)
    return (wanted - points).total(), (points - wanted).total()


def run(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Let the writers write, then read the store without MLflow and compare point by point."""
    context = mp.get_context("spawn")
    start = context.Barrier(chosen.writers)
    names = [str(number) for number in range(chosen.writers)]
    writers = [context.Process(target=write, args=(str(folder), name, chosen.updates, start)) for name in names]
    begun = time.monotonic()
    for writer in writers:
        writer.start()
    faults = []
    for name, writer in zip(names, writers, strict=True):
        writer.join(max(1.0, HANG_S - (time.monotonic() - begun)))
        if writer.exitcode != 0:
            writer.kill()
            faults.append(f"writer {name} ended with {writer.exitcode}")
    ended = [json.loads((folder / f"{n}.json").read_text()) for n in names if (folder / f"{n}.json").exists()]
    wanted = expected(chosen.updates)
    lost = doubled = 0
    with sqlite3.connect(folder / "mlflow.db") as store:
        for one in ended:
            without, beside = compared(store, one["run_id"], wanted)
            lost, doubled = lost + without, doubled + beside
        states = store.execute("SELECT status, COUNT(*) FROM runs GROUP BY status").fetchall()
        versions = [row[0] for row in store.execute("SELECT version FROM model_versions ORDER BY version")]
        experiments = store.execute("SELECT COUNT(*) FROM experiments WHERE name = 'cpl-ray'").fetchone()[0]
    said = Counter(text for one in ended for text in one["said"])
    faults += [f"{lost} points lost"] * bool(lost) + [f"{doubled} points doubled"] * bool(doubled)
    faults += [f"said {count} times: {text}" for text, count in said.items()]
    faults += [f"{one['missing']} entries missing" for one in ended if one["missing"]]
    if versions != list(range(1, chosen.writers + 1)):
        faults.append(f"versions in the registry: {versions}")
    if states != [("FINISHED", chosen.writers)]:
        faults.append(f"states of the runs: {states}")
    return {
        "writers": chosen.writers,
        "points": wanted.total() * len(ended),
        "lost": lost,
        "doubled": doubled,
        "versions": len(versions),
        "experiments": experiments,
        "slowest_s": round(max((one["seconds"] for one in ended), default=0.0), 1),
        "faults": faults,
    }
