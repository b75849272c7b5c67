"""What `cpl plan` says of a run on CPUs against the run: growth of the process's memory, seconds of an update."""

import json
import multiprocessing
import os
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

from transformers import Qwen2Config

from benchmarks.measure import Timing
from cpl_ray.calibration import calibrate, one_process, random_model
from cpl_ray.config import Config
from cpl_ray.encoding import Encoded
from cpl_ray.engine import ZeroEngine
from cpl_ray.forecast import Forecast
from cpl_ray.item_sizes import RunItems
from cpl_ray.loop import TrainingLoop
from cpl_ray.order import Rows
from cpl_ray.workload import ItemSize

STAGES = (0, 2, 3)
ROWS, LENGTH, VOCABULARY = 8, 64, 8192
MIB = 1 << 20


class RandomRows:
    """Random items of one length as the loop's row source."""

    def __init__(self, number: int, seed: int) -> None:
        generator = random.Random(seed)
        ids = [tuple(generator.randrange(VOCABULARY) for _ in range(LENGTH)) for _ in range(number)]
        self._rows = [Encoded(str(index), row[:-4], row[-4:]) for index, row in enumerate(ids)]
        self.num_rows = number

    def take(self, rows: Rows) -> list[Encoded]:
        """Return rows by number."""
        return [self._rows[row] for row in rows]


def run(rounds: int) -> list[Timing]:
    """Compare planned with measured seconds of an update per ZeRO stage, and print both memories; one process, gloo."""
    timings = []
    for stage in STAGES:
        with tempfile.TemporaryDirectory() as folder:
            # a process of its own: the peak of its memory is this run's
            process = multiprocessing.get_context("spawn").Process(target=_measure, args=(stage, rounds, folder))
            process.start()
            process.join()
            found = json.loads(Path(folder, "found.json").read_text(encoding="utf-8"))
        planned, grown = found["planned_bytes"], found["grown_bytes"]
        print(
            f"ZeRO {stage}: planned {planned / MIB:.0f} MiB, the process grew by {grown / MIB:.0f} MiB; "
            f"measured / planned {grown / planned:.2f}"
        )
        for name, seconds in (("planned", [found["planned_s"]] * 2), ("measured", found["seconds"])):
            deciles = statistics.quantiles(seconds, n=10)
            ratio = statistics.median(seconds) / found["planned_s"]
            timings.append(
                Timing(f"ZeRO {stage}, {name} update", statistics.median(seconds), deciles[0], deciles[-1], ratio)
            )
    return timings


def make_config(stage: int, updates: int) -> Config:
    """Return a CPL run of one worker."""
    train = {"micro_batch_size": ROWS, "mastered_batch_size": ROWS, "max_steps": updates, "checkpoint_every": None}
    return Config.model_validate({"model": "random", "zero_stage": stage, "train": train, "evaluate": {"every": None}})


def shape(layers: int) -> Qwen2Config:
    """Return a model of about 3 million parameters per layer."""
    return Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
    )


def _train(config: Config, settings: Qwen2Config, folder: Path | None) -> None:
    engine = ZeroEngine(random_model(config, settings), config)
    TrainingLoop(config, engine, RandomRows(64, 0), RandomRows(64, 1), pad_id=0, run_folder=folder).run()
    engine.close()


def _measure(stage: int, rounds: int, folder: str) -> None:
    config, settings = make_config(stage, rounds + 2), shape(8)
    items = RunItems([ItemSize(LENGTH - 4, 4)] * 64, [ItemSize(LENGTH - 4, 4)] * 64)
    plan = Forecast(config, settings, items, on_cpu=True, usable_bytes=1 << 62)
    planned = plan.memory(plan.present())
    with one_process(1):
        _train(make_config(stage, 2), shape(1), None)  # loads what a first run loads
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew
        before = _resident("VmRSS")
        _train(config, settings, Path(folder))
        grown = _resident("VmHWM") - before
        lines = Path(folder, "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        seconds = [record["seconds"] for record in records if record["kind"] == "train"][2:]
        found = calibrate(config, settings, plan.shape("injection"), plan.shape("mastered"), updates=rounds + 2)
    planned_s = found.injection_s + found.update_s + found.mastered_s + found.capture_s
    result: dict[str, Any] = {"planned_bytes": planned.everything, "grown_bytes": grown}
    result |= {"planned_s": planned_s, "seconds": seconds}
    Path(folder, "found.json").write_text(json.dumps(result), encoding="utf-8")


def _resident(what: str) -> int:
    """Return `VmRSS` or `VmHWM` of this process in bytes (Linux)."""
    status = Path(f"/proc/{os.getpid()}/status").read_text(encoding="utf-8")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(what))) * 1024
