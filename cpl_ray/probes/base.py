"""What a probe is: the few places of the training loop where something may be measured."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from cpl_ray.atomic import atomic_write_bytes

if TYPE_CHECKING:
    from cpl_ray.loop import TrainingLoop

Row = dict[str, Any]


class Probe:
    """Measures inside the training loop. All ranks call every hook together; training must go on as if it had not.

    Args:
        folder: where rank 0 writes `NAME.parquet` for each table when training has ended.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.tables: dict[str, list[Row]] = {}
        """Rows by table; the same on all ranks."""

    def start(self, loop: "TrainingLoop") -> None:
        """Look at the loop before anything has happened; the method of the optimizer may still be exchanged."""

    def before_update(self, loop: "TrainingLoop") -> None:
        """Measure before the mastered pass of an update; `loop.state.step` updates are done."""

    def after_update(self, loop: "TrainingLoop") -> None:
        """Measure after an update; `loop.state.step` counts it."""

    def end(self, loop: "TrainingLoop") -> None:
        """Measure the trained model, then write the tables."""
        if loop.comm.rank == 0:
            for name, rows in self.tables.items():
                write_table(self._folder / f"{name}.parquet", pa.Table.from_pylist(rows))

    def add(self, table: str, **values: Any) -> None:
        """Add one row to a table."""
        self.tables.setdefault(table, []).append(values)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as Parquet, whole or not at all."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    atomic_write_bytes(path, sink.getvalue())
