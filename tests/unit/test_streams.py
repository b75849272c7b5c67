"""A stream as row source: the same rows as random access, at most two windows held, ends noticed."""

from collections.abc import Iterator
from dataclasses import asdict

import pyarrow as pa
import pytest

from cpl_ray.encoding import Encoded
from cpl_ray.errors import DataError
from cpl_ray.order import ItemOrder
from cpl_ray.pictures import Picture
from cpl_ray.streams import StreamSource

PICTURE = Picture("/data/a.png", "0f")
ROWS = [Encoded(str(i), (i, i + 1), (2 * i,), PICTURE if i % 3 == 1 else None) for i in range(23)]


def blocks(sizes: list[int], passes: list[int] | None = None) -> Iterator[pa.Table]:
    if passes is not None:
        passes.append(1)
    start = 0
    for size in sizes:
        part = ROWS[start : start + size]
        start += size
        yield pa.table(
            {
                "id": [row.id for row in part],
                "context_ids": [row.context_ids for row in part],
                "target_ids": [row.target_ids for row in part],
                "image": [None if row.image is None else asdict(row.image) for row in part],
            }
        )


@pytest.mark.parametrize("window", [None, 1, 4, 7, 23, 100])
def test_takes_the_rows_of_the_order(window: int | None) -> None:
    passes: list[int] = []
    source = StreamSource(lambda: blocks([10, 0, 9, 4], passes), len(ROWS), window)
    order = ItemOrder(len(ROWS), seed=1, window=window)
    for epoch in range(3):
        for step in range(order.steps_per_epoch(5)):
            rows = order.batch(epoch, step, 5)
            assert source.take(rows) == [ROWS[row] for row in rows]
            assert len(source._held) <= 2
    assert len(passes) == (1 if window is None or window >= len(ROWS) else 3)


def test_a_window_in_the_middle_can_be_reached_after_a_resume() -> None:
    source = StreamSource(lambda: blocks([23]), len(ROWS), 4)
    assert source.take((17, 19)) == [ROWS[17], ROWS[19]]
    assert source.take((0,)) == [ROWS[0]]


def test_a_stream_that_ends_early_is_an_error() -> None:
    source = StreamSource(lambda: blocks([10]), len(ROWS), 4)
    with pytest.raises(DataError, match="10 of 23"):
        source.take((12,))


@pytest.mark.parametrize("window", [None, 4])
def test_what_is_held_is_a_copy_and_no_part_of_the_store(window: int | None) -> None:
    given = list(blocks([10, 9, 4]))
    source = StreamSource(lambda: iter(given), len(ROWS), window)
    source.take(tuple(range(len(ROWS))))
    held = [source._rest, *source._held.values()]
    assert addresses(held)
    assert not addresses(held) & addresses(given)


def addresses(tables: list[pa.Table]) -> set[int]:
    """Return where the buffers of tables lie in memory, without empty ones."""
    arrays = [chunk for table in tables for column in table.columns for chunk in column.chunks]
    return {buffer.address for array in arrays for buffer in array.buffers() if buffer is not None and buffer.size}
