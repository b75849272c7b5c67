"""A proxy mastered set against a real one: `python -m benchmarks.proxy_set RUN` (a folder that `make demo` left).

The parts of the run are written out as files; the base model writes a proxy set (`cpl propose`); then three trainings
with the run's settings protect the real items, the proxy, and nothing. All are measured on the real held-out items.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from cpl_ray.assessment import Row, read_assessment
from cpl_ray.environment import snapshot
from cpl_ray.rundir import atomic_write_text

SPLITS = {"mastered_train": "old_train", "mastered_test": "old_test", "injection_train": "new"}


def main() -> None:
    """Train with the real set, the proxy and none, and print what was learned and what was forgotten."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proxy_set", description=main.__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--template", default="{question}", help="propose.template")
    parser.add_argument("--items", type=int, default=200, help="items of either mastered set")
    parser.add_argument("--candidates", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks", "results", "proxy_set"))
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    parts = read_assessment(options.run / "assessment").parts
    files = {name: out / f"{name}.jsonl" for name in SPLITS.values()}
    for part, name in SPLITS.items():
        atomic_write_text(files[name], "".join(json.dumps(plain(row)) + "\n" for row in parts[part]))
    config = str(options.run / "config.yaml")
    same = [
        f"run.dir={out}",
        "run.overwrite=true",
        "tracking.enabled=false",
        "data.items=null",
        f"data.injection={files['new']}",
    ]
    wanted = [f"propose.template={options.template}", f"propose.items={options.items}"]
    more = [f"propose.candidates={options.candidates}", "propose.held_out=0", "run.name=proposed"]
    held_out = f"data.mastered_held_out={files['old_test']}"
    real = f"data.mastered={files['old_train']}"  # brought sets come together; proposing looks at the others only
    cpl("propose", config, [*same, real, held_out, *wanted, *more])
    proposed = out / "proposed" / "proposed.jsonl"
    kept = sum(1 for _ in proposed.open(encoding="utf-8"))
    trained = {
        "real": [real],
        "proxy": [f"data.mastered={proposed}"],
        "none": [real, "train.rule=none"],
    }
    rows = {}
    for name, keys in trained.items():
        cpl("run", config, [*same, held_out, *keys, f"train.mastered_size={kept}", f"run.name={name}"])
        result = json.loads((out / name / "result.json").read_text(encoding="utf-8"))
        rows[name] = {"learned": result["learned"], "forgotten": result["forgotten"], "steps": result["steps"]}
        print(
            name, json.dumps({"learned": count(result["learned"]), "held-out": count(result["forgotten"]["held_out"])})
        )
    record = {"date": datetime.now().isoformat(timespec="seconds"), "proxy_items": kept, "rows": rows}
    atomic_write_text(out / "proxy_set.json", json.dumps(record | {"environment": snapshot()}, indent=1) + "\n")


def plain(row: Row) -> dict[str, Any]:
    """Return an item as a user would bring it: question, statement and answer, without choices."""
    item = row.item
    found = {"id": item.id, "question": item.question, "cloze": item.cloze, "answer": item.target}
    return {key: value for key, value in found.items() if value}


def count(rate: Mapping[str, Any]) -> str:
    """Say a count of a result."""
    return f"{rate['count']} of {rate['of']}"


def cpl(verb: str, config: str, keys: Sequence[str]) -> None:
    """Run one verb as a user would.

    Raises:
        CalledProcessError: it failed; its own message is on the screen.
    """
    subprocess.run([sys.executable, "-m", "pipelines", verb, config, *keys], check=True)


if __name__ == "__main__":
    main()
