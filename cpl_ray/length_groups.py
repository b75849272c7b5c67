"""Which items of a micro-batch share a forward pass: those of similar length, so that little is padding."""

from collections import Counter
from collections.abc import Sequence


def pass_cost(*, on_cpu: bool) -> int:
    """Return what a forward and backward pass costs beside its tokens, in tokens.

    Measured on CPUs (docs/log.md); for accelerators an assumption: they want few, large passes.
    """
    return 64 if on_cpu else 4096


def length_groups(lengths: Sequence[int], cost: int | None) -> list[int]:
    """Return the longest length of each group, ascending, of the cut into groups that costs least.

    A group costs its number of rows times its longest length, and `cost`. Exact: dynamic programming over the lengths.

    Args:
        lengths: of the items, in tokens; at least one.
        cost: of a pass beside its tokens, in tokens; None: one group, where every rank has to make equally many passes.
    """
    if cost is None:
        return [max(lengths)]
    counts = sorted(Counter(lengths).items())
    best: list[tuple[int, int]] = [(0, 0)]  # cost of the shortest so many lengths, and where their last group begins
    for end in range(1, len(counts) + 1):
        rows, options = 0, []
        for begin in range(end - 1, -1, -1):
            rows += counts[begin][1]
            options.append((best[begin][0] + rows * counts[end - 1][0] + cost, begin))
        best.append(min(options))
    groups, end = [], len(counts)
    while end:
        groups.append(counts[end - 1][0])
        end = best[end][1]
    return groups[::-1]
