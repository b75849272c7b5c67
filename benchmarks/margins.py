"""What a comparison did to the margins of held-out mastered items: finer than counting those that were forgotten.

python -m benchmarks.margins runs/smollm2-compare [--output FILE.csv]

The margin is the log-likelihood of the right choice less that of the best wrong one, in nats (flips.parquet).
One row for each method and rate, over its seeds: items learned and forgotten, the share of held-out items whose
margin fell, its mean change, and how many of the forgotten had a margin above `--sure`. Descriptive: chosen after
the counts were seen.
"""

import argparse
import csv
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

COLUMNS = ("method", "rate", "seeds", "learned", "forgotten", "of", "fell", "mean_change", "sure_forgotten")


def rows_of(folder: Path, sure: float) -> list[dict[str, Any]]:
    """Return one row for each method and rate of a comparison."""
    book = json.loads((folder / "compare.json").read_text("utf-8"))
    groups: dict[tuple[str, float], list[tuple[dict[str, Any], Path]]] = defaultdict(list)
    for trial in book["trials"]:
        place = folder / trial["run_dir"] / "flips.parquet"
        if trial["state"] == "finished" and place.exists():
            groups[trial["method"], trial["point"]["optimizer.lr"]].append((trial, place))
    found = []
    for (method, rate), trials in groups.items():
        items: list[dict[str, Any]] = []
        learned = 0
        for _, place in trials:
            ledger = pq.read_table(place).to_pylist()
            items += [row for row in ledger if row["part"] == "mastered_test" and row["before_correct"]]
            learned += sum(row["part"] == "injection_train" and bool(row["after_correct"]) for row in ledger)
        changes = [row["after_margin"] - row["before_margin"] for row in items]
        forgotten = [row for row in items if not row["after_correct"]]
        found.append(
            {
                "method": method,
                "rate": rate,
                "seeds": len(trials),
                "learned": learned,
                "forgotten": len(forgotten),
                "of": len(items),
                "fell": round(sum(change < 0 for change in changes) / len(changes), 4),
                "mean_change": round(sum(changes) / len(changes), 4),
                "sure_forgotten": sum(row["before_margin"] > sure for row in forgotten),
            }
        )
    return found


def main() -> int:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="run folder of a comparison")
    parser.add_argument("--sure", type=float, default=3.0, help="margin in nats from which an item counts as sure")
    parser.add_argument("--output", type=Path, help="CSV of the table")
    chosen = parser.parse_args()
    if not (chosen.folder / "compare.json").is_file():
        parser.error(f"{chosen.folder} is no run folder of `cpl compare` (it holds no compare.json)")
    found = rows_of(chosen.folder, chosen.sure)
    writers = [csv.DictWriter(sys.stdout, COLUMNS)]
    stream = chosen.output.open("w", encoding="utf-8", newline="") if chosen.output else None
    if stream is not None:
        writers.append(csv.DictWriter(stream, COLUMNS))
    for writer in writers:
        writer.writeheader()
        writer.writerows(found)
    if stream is not None:
        stream.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
