"""Spans of time as people read them."""

import math
from itertools import pairwise

_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def duration(seconds: float, *, short: bool = False) -> str:
    """Return a span in its largest unit and the next, e.g. `45 s`, `9 min 41 s`, `3 d 4 h`; `short`: the largest."""
    if not math.isfinite(seconds):  # out of a file that somebody wrote by hand
        return "unknown"
    whole = max(0, round(seconds))
    for (unit, size), (below, small) in pairwise(_UNITS):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {unit}" + (f" {rest} {below}" if rest and not short else "")
    return f"{whole} s"
