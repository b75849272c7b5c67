"""What a study has found, and how it is kept: Parquet, a paragraph, a JSON page."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpl_ray.atomic import atomic_write_bytes, atomic_write_text
from cpl_ray.errors import DataError, ResumeError
from cpl_ray.rundir import read_json

if TYPE_CHECKING:  # the command line must answer at once
    import pyarrow as pa

PAGE = "study.json"
VERDICT = "verdict.md"
Number = float | int | None


@dataclass(frozen=True)
class Findings:
    """The result of a study."""

    verdict: str
    """A paragraph with numbers; says also where a claim does not hold."""
    headline: Mapping[str, Number]
    """The numbers that count, by name; None where one could not be measured."""
    tables: "Mapping[str, pa.Table]" = field(default_factory=dict)
    """What the numbers were computed from."""


def begin_findings(folder: Path, name: str) -> None:
    """Write the page of a study that has begun, so that its folder is known as one.

    Raises:
        ResumeError: the folder holds another study.
    """
    path = folder / PAGE
    if path.exists() and (other := read_json(path).get("study")) != name:
        raise ResumeError(f"run.resume: {folder} holds the study {other!r}, not {name!r}; choose another run.name")
    atomic_write_text(path, json.dumps({"study": name, "state": "running"}) + "\n")


def write_findings(findings: Findings, folder: Path, *, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Write `data/TABLE.parquet`, `verdict.md` and, last, `study.json` into a study's folder.

    Returns:
        The content of study.json: `study`, `state`, `settings`, `headline`, `verdict`, `tables` (rows and columns by
        name).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for table_name, table in findings.tables.items():
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        atomic_write_bytes(folder / "data" / f"{table_name}.parquet", sink.getvalue().to_pybytes())
    atomic_write_text(folder / VERDICT, f"# {name}\n\n{findings.verdict}\n")
    page = {
        "study": name,
        "state": "finished",
        "settings": dict(settings),
        "headline": dict(findings.headline),
        "verdict": findings.verdict,
        "tables": {key: {"rows": t.num_rows, "columns": t.column_names} for key, t in findings.tables.items()},
    }
    atomic_write_text(folder / PAGE, json.dumps(page, indent=1, ensure_ascii=False) + "\n")
    return page


def read_table(path: Path) -> "pa.Table":
    """Read a table that a probe or a study has written.

    Raises:
        DataError: there is none, or it is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(pa.BufferReader(path.read_bytes())).read(use_threads=False)  # no threads: see ledger.py
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def percent(share: float | None) -> str:
    """Return a share for a sentence, e.g. `12.3 %`."""
    return "not measured" if share is None else f"{100 * share:.1f} %"
