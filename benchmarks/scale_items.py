"""A million items through the assessment's path without a model: seconds of computing and memory of each step."""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.fitted import Series
from benchmarks.processes import apart, new_peak, resident
from benchmarks.random_items import question, save_small_model
from cpl_ray.assessment import Verdict, read_assessment, write_assessment
from cpl_ray.bias import letter_report
from cpl_ray.config import Config
from cpl_ray.digest import items_digest
from cpl_ray.encoding import Encoder
from cpl_ray.manifest import build_manifest
from cpl_ray.model import load_tokenizer
from cpl_ray.reading import read_items, separate_ids
from cpl_ray.split import check_leaks, grade, split

SIZES = (10_000, 100_000, 1_000_000)
TOKENISED = (1_000, 4_000, 16_000)


def items(rounds: int, largest: float | None) -> list[Series]:
    """Read, grade, split, check and write so many items, verdicts made up; each number in a process of its own."""
    sizes = [size for size in SIZES if largest is None or size <= largest]
    found = {size: apart(_steps, size) for size in sizes}
    steps = list(found[sizes[0]])
    seconds = [Series(step, "items", "CPU s", [(size, found[size][step][0]) for size in sizes]) for step in steps]
    total = [(size, sum(cost for cost, _ in found[size].values())) for size in sizes]
    peaks = [
        Series(f"{step}, memory", "items", "peak MB", [(size, found[size][step][1]) for size in sizes])
        for step in steps
    ]
    return [*seconds, Series("all steps", "items", "CPU s", total), *peaks]


def tokenising(rounds: int, largest: float | None) -> list[Series]:
    """Tokenise items with four choices for training and scoring, as the assessment does before it asks."""
    sizes = [size for size in TOKENISED if largest is None or size <= largest]
    return [Series("encode", "items", "CPU s", [(size, apart(_encode, size)) for size in sizes])]


def _steps(size: int) -> dict[str, tuple[float, float]]:
    """Return (CPU seconds, peak megabytes of the process meanwhile) by step."""
    config = Config.model_validate({"model": "none", "data": {"items": "items.jsonl"}})
    done: dict[str, tuple[float, float]] = {}

    def timed(name: str, run: Callable[[], Any]) -> Any:
        new_peak()
        started = time.process_time()
        made = run()
        done[name] = (time.process_time() - started, resident("VmHWM") / 1e6)
        return made

    with tempfile.TemporaryDirectory() as folder:
        lines, table = Path(folder, "items.jsonl"), Path(folder, "items.parquet")
        _write(lines, table, size)
        timed("read Parquet", lambda: len(read_items(str(table), config.data, name="data.items").items))
        read = timed("read JSONL", lambda: read_items(str(lines), config.data, name="data.items").items)
        known = timed("ids", lambda: separate_ids({"items": read}))["items"]
        read = []
        verdicts = timed("(making verdicts up)", lambda: {item.id: _verdict(item.id, item.choices) for item in known})
        timed("letter report", lambda: letter_report(known, verdicts))
        graded = timed("grade", lambda: grade(known, verdicts))
        parts = timed("split", lambda: split(known, verdicts, config.split, graded=graded))
        timed("leak check", lambda: check_leaks(parts))
        manifest = build_manifest(
            config, scorer="choice_loglik", prompt_fingerprint="", num_rows=size, num_rejected=0, set_aside=[]
        )
        assessment = Path(folder, "assessment")
        timed("write assessment", lambda: write_assessment(assessment, parts, manifest))
        timed("digest of the items", lambda: items_digest(known))
        known, verdicts, graded, parts = [], {}, None, {}  # a later stage has none of them
        timed("read assessment", lambda: read_assessment(assessment))
    return done


def _write(lines: Path, table: Path, size: int) -> None:
    with lines.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(question(number)) + "\n" for number in range(size))
    columns = pa.schema([("question", pa.string()), ("choices", pa.list_(pa.string())), ("answer", pa.int64())])
    with pq.ParquetWriter(table, columns) as writer:
        for start in range(0, size, 50_000):
            rows = [question(number) for number in range(start, min(start + 50_000, size))]
            writer.write_table(pa.Table.from_pylist(rows, schema=columns))


def _verdict(name: str, choices: tuple[str, ...]) -> Verdict:
    number = hash(choices) % 1000
    scores = (-1.0 - number, -2.0, -3.0, -4.0)
    return Verdict(name, number < 600, choices[number % 4], float(number), scores)


def _encode(size: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        save_small_model(Path(folder))
        config = Config.model_validate({"model": folder})
        encoder = Encoder.of(config, load_tokenizer(config), scorer="choice_loglik", max_length=512)
        lines = Path(folder, "items.jsonl")
        lines.write_text("".join(json.dumps(question(number)) + "\n" for number in range(size)), encoding="utf-8")
        known = read_items(str(lines), config.data, name="data.items").items
        for item in known[:50]:
            encoder.training(item)
        started = time.process_time()
        for item in known:
            encoder.training(item)
        return time.process_time() - started
