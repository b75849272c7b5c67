"""A process whose storage fails: each writer of a run is tried there, and what becomes of it printed as JSON.

python -m tests.faults.writers full|read_only FOLDER     (in a mount namespace of its own)
python -m tests.faults.writers failing FOLDER            (under the library of tests/faults/shim.py, which it sets)
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from cpl_ray.assessment import PARTS, Row, Verdict, read_assessment, write_assessment
from cpl_ray.atomic import atomic_folder, atomic_write_text, remove_leftovers
from cpl_ray.items import Item
from cpl_ray.ledger import read_ledger, write_ledger
from cpl_ray.recorder import Recorder
from tests.faults.mounts import Tmpfs

SMALL, LARGE = 1 << 20, 1 << 26
ROUNDS = 60
EVERY = (37, 41, 53)  # more than the calls of any one writer, or it would fail for ever


def _tensors(folder: Path, value: int) -> None:
    import torch
    from safetensors.torch import save_file

    with atomic_folder(folder) as part:
        save_file({"w": torch.full((1 << 19,), value, dtype=torch.float32)}, part / "w.safetensors")


def _pickled(folder: Path, value: int) -> None:
    import torch

    with atomic_folder(folder) as part:
        torch.save(torch.full((1 << 19,), value, dtype=torch.float32), part / "w.pt")


def _text(path: Path, value: int) -> None:
    atomic_write_text(path, str(value) * (1 << 21))


def _records(path: Path, value: int) -> None:
    recorder = Recorder(path, 0)
    try:
        for step in range(value << 15):
            recorder.write("train", step, {"loss": float(value)})
        recorder.sync()
    finally:
        recorder.close()


def _ledger(path: Path, value: int) -> None:
    write_ledger(path, pa.table({"id": [f"{value}-{index}-{index * 7919 % 65521}" for index in range(1 << 19)]}))


WRITERS: dict[str, Callable[[Path, int], None]] = {
    "text": _text,
    "tensors": _tensors,
    "pickled": _pickled,
    "ledger": _ledger,
    "records": _records,
}


def _tried(write: Callable[[Path, int], None], path: Path, value: int) -> dict[str, Any]:
    try:
        write(path, value)
    except OSError as error:
        return {"errno": error.errno, "file": str(error.filename)}
    return {"errno": 0}


def _content(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    return {str(one.relative_to(path.parent)): one.read_bytes() for one in files}


def hindered(folder: Path, *, full: bool) -> dict[str, Any]:
    """Write everything once where it can be, then where it cannot, then where it can be again."""
    found: dict[str, Any] = {}
    for name, write in WRITERS.items():
        room = Tmpfs(folder / name)
        room.mount(LARGE)
        path = room.folder / "out"
        write(path, 1)
        before = _content(path)
        if full:
            (room.folder / "other").write_bytes(b"x" * SMALL)
            room.resize(sum(len(data) for data in before.values()) + 2 * SMALL)
        else:
            room.writable(False)
        said = _tried(write, path, 2)
        kept = _content(path) == before
        left = [one.name for one in room.folder.iterdir() if one.name.startswith(".")]
        if full:
            room.resize(LARGE)
        else:
            room.writable(True)
        again = _tried(write, path, 2)
        found[name] = {"said": said, "kept": kept, "left": left, "again": again, "new": _content(path) != before}
    return found


def _part_of(value: int) -> dict[str, list[Row]]:
    item = Item(f"i{value}", "completion", prompt="p", target="t")
    return {part: [Row(item, Verdict(item.id, True, "t", 1.0))] if part == PARTS[0] else [] for part in PARTS}


def failing(folder: Path) -> dict[str, Any]:
    """Write into an empty folder again and again while some calls fail: what was acknowledged is there."""
    wrong: list[str] = []
    failures = {"records": 0}
    made: dict[str, Callable[[int], None]] = {
        "text": lambda value: atomic_write_text(folder / "text", str(value)),
        "assessment": lambda value: write_assessment(folder / "assessment", _part_of(value), {}),
        "ledger": lambda value: write_ledger(folder / "ledger", _ledger_of(value)),
    }
    for name, write in made.items():
        failures[name], known = 0, -1
        for value in range(ROUNDS):
            before, known = known, value
            try:
                write(value)
            except OSError as error:
                known = before
                failures[name] += 1
                if error.filename is None or not str(error.filename).startswith(str(folder)):
                    wrong.append(f"{name} {value}: {error!r} names no file")
            if _value_of(folder, name) != known:
                wrong.append(f"{name} holds {_value_of(folder, name)}, acknowledged is {known}")
    step = 0
    while step < ROUNDS and failures["records"] < 10 * ROUNDS:
        try:
            recorder = Recorder(folder / "metrics.jsonl", step)
            try:
                while step < ROUNDS:
                    recorder.write("train", step + 1, {"loss": 0.5})
                    recorder.sync()
                    step += 1
            finally:
                recorder.close()
        except OSError as error:
            failures["records"] += 1
            if not str(error.filename).startswith(str(folder)):
                wrong.append(f"records {step}: {error!r} names no file")
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    if steps != list(range(1, ROUNDS + 1)):
        wrong.append(f"metrics.jsonl has {steps}")
    remove_leftovers(folder)
    return {"wrong": wrong, "failures": failures, "left": [one.name for one in folder.rglob(".*")]}


def _ledger_of(value: int) -> pa.Table:
    from cpl_ray.ledger import _SCHEMA

    return pa.Table.from_pylist([{"id": str(value), "set": "s", "part": "p", "question": "", "target": ""}], _SCHEMA)


def _value_of(folder: Path, name: str) -> int:
    if not (folder / name).exists():
        return -1
    if name == "text":
        return int((folder / name).read_text())
    if name == "ledger":
        return int(read_ledger(folder / name).column("id")[0].as_py())
    return int(read_assessment(folder / name).parts[PARTS[0]][0].item.id[1:])


if __name__ == "__main__":
    what, place = sys.argv[1], Path(sys.argv[2])
    if what == "failing":
        answer = {}
        for every in EVERY:
            (place / str(every)).mkdir(parents=True)
            os.environ |= {"CPL_FAULT_EVERY": str(every), "CPL_FAULT_PREFIX": str(place / str(every))}
            answer[str(every)] = failing(place / str(every))
    else:
        answer = hindered(place, full=what == "full")
    print(json.dumps(answer))
