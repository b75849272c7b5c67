"""Ray Data streams of encoded items, read in an order that is fixed before sharding.

Every worker iterates the whole stream of its set, which Ray keeps once per node in shared memory, and takes only the
rows of its slice (order.py). So every row comes exactly once an epoch and the world size changes no batch.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import DataIterator, Dataset

from cpl_ray.assessment import Row
from cpl_ray.encoding import Encoded, Encoder
from cpl_ray.errors import DataError
from cpl_ray.items import Item
from cpl_ray.order import Rows
from cpl_ray.pictures import Picture

BLOCK_ROWS = 4096
_ENCODED = pa.schema(
    [
        ("id", pa.string()),
        ("context_ids", pa.list_(pa.int32())),
        ("target_ids", pa.list_(pa.int32())),
        ("image", pa.struct([("location", pa.string()), ("sha256", pa.string())])),
    ]
)
_SCORED = pa.schema([("part", pa.string()), ("item", pa.string()), ("correct_before", pa.bool_())])


def encoded_stream(items: Sequence[Item], encoder: Encoder, name: str) -> Dataset:
    """Tokenise a set once and put it into Ray's object store, in file order.

    Args:
        items: the set.
        encoder: tokenises one item.
        name: the set's name, for messages.

    Raises:
        DataError: the set is empty.
        RowError: an item cannot be encoded (callers have set such items aside before).
    """
    if not items:
        raise DataError(f"the {name} set is empty; nothing can be trained on it")

    def block(start: int) -> pa.Table:
        rows = [encoder.training(item) for item in items[start : start + BLOCK_ROWS]]
        images = [None if row.image is None else asdict(row.image) for row in rows]
        columns = [
            [row.id for row in rows],
            [row.context_ids for row in rows],
            [row.target_ids for row in rows],
            images,
        ]
        return pa.table(columns, schema=_ENCODED)

    return _stored(block(start) for start in range(0, len(items), BLOCK_ROWS))


def scored_stream(parts: Mapping[str, Sequence[Row]]) -> Dataset:
    """Put the items to be scored during training into the object store, with what the base model made of them."""
    rows = [(part, row.item, row.before) for part, own in parts.items() for row in own if row.before]

    def block(start: int) -> pa.Table:
        some = rows[start : start + BLOCK_ROWS]
        columns = [
            [part for part, _, _ in some],
            [item.to_json() for _, item, _ in some],
            [before.correct for _, _, before in some],
        ]
        return pa.table(columns, schema=_SCORED)

    return _stored(block(start) for start in range(0, max(1, len(rows)), BLOCK_ROWS))


def _stored(blocks: Iterable[pa.Table]) -> Dataset:
    """Put blocks into the object store one by one, so that this process never holds more than three of them.

    What does not fit into the store Ray writes to disk, each block once.
    """
    remaining = iter(blocks)
    first, second = next(remaining), next(remaining, None)
    if second is None:  # described here; for the references below Ray starts a task, hence a process
        return ray.data.from_blocks([first])
    stored: Any = [ray.put(block) for block in chain([first, second], remaining)]  # Ray has two types of the same name
    return ray.data.from_arrow_refs(stored)


def blocks_of(iterator: DataIterator) -> Callable[[], Iterator[pa.Table]]:
    """Return a function that starts a new pass over a worker's stream, in blocks."""
    whole_blocks: Any = None  # Ray documents None, its types do not
    return lambda: iter(iterator.iter_batches(batch_size=whole_blocks, batch_format="pyarrow", prefetch_batches=1))


class StreamSource:
    """A stream as the loop's row source; at most two windows of rows are held.

    Args:
        blocks: starts a pass over the stream, in order.
        num_rows: rows in the stream.
        window: rows per window, as in the item order; None: the whole set is one window and is read once.
    """

    def __init__(self, blocks: Callable[[], Iterator[pa.Table]], num_rows: int, window: int | None = None) -> None:
        self.num_rows = num_rows
        self._blocks, self._window = blocks, min(window or num_rows, num_rows)
        self._held: dict[int, pa.Table] = {}
        self._pass: Iterator[pa.Table] = iter(())
        self._next_window, self._rest = -1, _ENCODED.empty_table()

    def take(self, rows: Rows) -> list[Encoded]:
        """Return rows by number. Windows should be asked for in ascending order: going back starts a new pass."""
        return [self._row(row) for row in rows]

    def _row(self, row: int) -> Encoded:
        window, index = divmod(row, self._window)
        while window not in self._held:
            self._read_window(window)
        table = self._held[window]
        image = table["image"][index].as_py()
        return Encoded(
            table["id"][index].as_py(),
            tuple(table["context_ids"][index].as_py()),
            tuple(table["target_ids"][index].as_py()),
            None if image is None else Picture(**image),
        )

    def _read_window(self, wanted: int) -> None:
        if self._next_window < 0 or wanted < self._next_window:
            self._pass, self._next_window, self._rest = self._blocks(), 0, _ENCODED.empty_table()
        start = self._next_window * self._window
        size = min(self._window, self.num_rows - start)
        tables, num_rows = [self._rest], self._rest.num_rows
        while num_rows < size:
            block = next(self._pass, None)
            if block is None:
                raise DataError(f"a stream ended at row {start + num_rows} of {self.num_rows}")
            tables.append(_copied(block.select(_ENCODED.names).cast(_ENCODED)))
            num_rows += block.num_rows
        whole = pa.concat_tables(tables)
        self._held = {key: table for key, table in self._held.items() if key == self._next_window - 1}
        self._held[self._next_window] = whole.slice(0, size)
        self._rest = whole.slice(size)
        self._next_window += 1


def _copied(block: pa.Table) -> pa.Table:
    """Return a copy in this process's memory.

    A block that was read lies in the object store, which can give up nothing that is in use: a set larger than the
    store would fill it, and all that is restored after that goes to files.
    """
    columns = [pa.concat_arrays([*column.chunks, pa.nulls(0, column.type)]) for column in block.columns]
    return pa.Table.from_arrays(columns, schema=block.schema)
