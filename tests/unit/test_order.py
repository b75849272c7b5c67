"""The order of items: every row once an epoch, the same global batches on every world size, bounded windows."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cpl_ray.order import ItemOrder, rank_micro_batches

SIZES = st.integers(1, 60)


@given(SIZES, st.integers(1, 20), st.integers(0, 3), st.none() | st.integers(1, 25), st.booleans())
def test_every_row_exactly_once_an_epoch(rows: int, batch: int, epoch: int, window: int | None, shuffle: bool) -> None:
    order = ItemOrder(rows, seed=5, shuffle=shuffle, window=window)
    steps = order.steps_per_epoch(batch)
    seen = [row for t in range(steps) for row in order.batch(epoch, t, batch)]
    assert sorted(seen) == list(range(rows))
    assert all(len(order.batch(epoch, t, batch)) == batch for t in range(steps - 1))
    if window is not None:
        assert [row // window for row in seen] == sorted(row // window for row in seen)


@given(SIZES, st.integers(1, 4), st.integers(1, 3), st.integers(1, 4))
def test_ranks_share_a_batch_without_loss_whatever_the_world_size(
    rows: int, world_size: int, accumulation: int, micro: int
) -> None:
    size = world_size * accumulation * micro
    whole = ItemOrder(rows, seed=1).batch(0, 0, size)
    shares = [
        rank_micro_batches(whole, rank=r, world_size=world_size, global_size=size, micro_batch_size=micro)
        for r in range(world_size)
    ]
    assert {len(share) for share in shares} == {accumulation}
    assert tuple(row for share in shares for part in share for row in part) == whole


@given(SIZES, st.integers(1, 80), st.integers(1, 6))
def test_endless_batches_are_full_and_even(rows: int, batch: int, count: int) -> None:
    order = ItemOrder(rows, seed=2)
    drawn = [order.endless(k, batch) for k in range(count)]
    assert {len(one) for one in drawn} == {min(batch, rows)}
    times = Counter(row for one in drawn for row in one)
    assert max(times.values()) - min(times.get(row, 0) for row in range(rows)) <= 1


def test_epochs_and_seeds_differ_and_repeat() -> None:
    order = ItemOrder(50, seed=3)
    assert order.epoch(0).tolist() == ItemOrder(50, seed=3).epoch(0).tolist()
    assert order.epoch(0).tolist() != order.epoch(1).tolist()
    assert order.epoch(0).tolist() != ItemOrder(50, seed=4).epoch(0).tolist()
    assert ItemOrder(4, seed=3, shuffle=False).endless(1, 3) == (3, 0, 1)
