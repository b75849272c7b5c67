"""Making very many small records at once."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Pause Python's collector of cycles while records are made that hold none.

    It wakes with every few hundred new objects and, as the heap grows, walks over all of it again and again: over a
    million items that is more than half of the time in which verdicts are sorted or an assessment is read.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
