"""Making very many small objects at once."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Pause Python's collector of cycles while records are made that hold none, or modules are imported.

    It wakes with every few hundred new objects and, as the heap grows, walks over all of it again and again: over a
    million items that is more than half of the time in which verdicts are sorted or an assessment is read, and a fifth
    of the time in which the modules of a worker are imported.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
