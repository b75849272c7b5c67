"""The order of items, fixed before sharding: a pure function of seed and position, the same on every world size.

Global batch t of an epoch is positions [t * B, (t + 1) * B) of a permutation of row ids by (seed, epoch); each rank
takes its slice. With a window, rows are permuted inside consecutive windows only, so that a stream needs no more than
that in memory.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

Rows = tuple[int, ...]


@lru_cache(maxsize=4)
def permutation(num_rows: int, seed: int, epoch: int, window: int | None) -> np.ndarray:
    """Return the row ids of an epoch in order, int64 `[num_rows]`, permuted by (seed, epoch) inside each window."""
    generator = np.random.default_rng([seed, epoch])
    size = window or num_rows
    pieces = [start + generator.permutation(min(size, num_rows - start)) for start in range(0, num_rows, size)]
    return np.concatenate(pieces)


@lru_cache(maxsize=4)
def _in_order(num_rows: int) -> np.ndarray:
    return np.arange(num_rows)


@dataclass(frozen=True)
class ItemOrder:
    """The endless sequence of a set's rows: one epoch's permutation after the other.

    Args:
        num_rows: size of the set, >= 1.
        seed: seed of the permutations.
        shuffle: false keeps file order in every epoch.
        window: rows per shuffle window; None: the whole set.
    """

    num_rows: int
    seed: int
    shuffle: bool = True
    window: int | None = None

    def epoch(self, epoch: int) -> np.ndarray:
        """Return the row ids of one epoch in order, int64 `[num_rows]`."""
        if not self.shuffle:
            return _in_order(self.num_rows)
        return permutation(self.num_rows, self.seed, epoch, self.window)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the global batches per epoch; the last may be short."""
        return math.ceil(self.num_rows / batch_size)

    def batch(self, epoch: int, index: int, batch_size: int) -> Rows:
        """Return the row ids of a global batch of an epoch; every row comes exactly once an epoch."""
        return tuple(self.epoch(epoch)[index * batch_size : (index + 1) * batch_size].tolist())

    def endless(self, index: int, batch_size: int) -> Rows:
        """Return batch `index` of the epochs written one after the other, always full, at most the whole set."""
        size = min(batch_size, self.num_rows)
        rows: list[int] = []
        while len(rows) < size:
            epoch, start = divmod(index * size + len(rows), self.num_rows)
            rows += self.epoch(epoch)[start : start + size - len(rows)].tolist()
        return tuple(rows)


def rank_micro_batches(
    rows: Rows, *, rank: int, world_size: int, global_size: int, micro_batch_size: int
) -> list[Rows]:
    """Cut a rank's share of a global batch into micro-batches; their number is the same on every rank.

    Args:
        rows: the global batch, at most `global_size` rows.
        rank: this rank.
        world_size: number of ranks.
        global_size: rows of a full global batch, over all ranks.
        micro_batch_size: rows per forward pass.

    Returns:
        Micro-batches, short or empty (padding, which carries zero tokens) where the batch has no more rows.
    """
    per_rank = math.ceil(global_size / world_size)
    mine = rows[rank * per_rank : (rank + 1) * per_rank]
    count = math.ceil(per_rank / micro_batch_size)
    return [mine[i * micro_batch_size : (i + 1) * micro_batch_size] for i in range(count)]
