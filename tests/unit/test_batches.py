"""Padding, labels and loss: only answer tokens count, wherever they are and whatever stands beside them."""

from itertools import combinations

import torch
from hypothesis import given
from hypothesis import strategies as st

from cpl_ray.batches import collate, micro_batch
from cpl_ray.encoding import Encoded
from cpl_ray.length_groups import length_groups
from cpl_ray.loss import IGNORE, supervised_cross_entropy

IDS = st.lists(st.integers(0, 8), min_size=1, max_size=6).map(tuple)
ITEMS = st.lists(st.builds(lambda c, t: Encoded("x", c, t), IDS, IDS), min_size=1, max_size=5)


@given(ITEMS)
def test_loss_of_a_batch_is_the_sum_of_its_items(items: list[Encoded]) -> None:
    torch.manual_seed(0)
    table = torch.randn(9, 9, dtype=torch.float64)  # a bigram model: logits depend on the token alone

    def loss(some: list[Encoded]) -> torch.Tensor:
        batch = collate(some, pad_id=0)
        return supervised_cross_entropy(table[batch.input_ids][:, batch.positions], batch.labels)

    torch.testing.assert_close(loss(items), torch.stack([loss([item]) for item in items]).sum())
    by_hand = 0.0
    for item in items:
        tokens = (*item.context_ids, *item.target_ids)
        for position in range(len(item.context_ids), len(tokens)):
            by_hand -= float(torch.log_softmax(table[tokens[position - 1]], 0)[tokens[position]])
    torch.testing.assert_close(float(loss(items)), by_hand)


@given(ITEMS)
def test_counts(items: list[Encoded]) -> None:
    batch = collate(items, pad_id=0)
    assert batch.num_targets == sum(len(item.target_ids) for item in items)
    assert batch.num_tokens == sum(len(item.context_ids) + len(item.target_ids) for item in items)
    assert int((batch.labels != IGNORE).sum()) == batch.num_targets
    assert bool((batch.labels != IGNORE).any(dim=0).all())  # no position without a label


def test_padding_batch_has_no_loss_but_a_gradient_path() -> None:
    batch = collate([], pad_id=7)
    logits = torch.randn(1, len(batch.positions), 9, requires_grad=True)
    loss = supervised_cross_entropy(logits, batch.labels)
    loss.backward()
    assert loss.item() == 0
    assert batch.num_targets == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_half_precision_logits_are_summed_in_float32() -> None:
    logits = torch.randn(2, 3, 9).bfloat16()
    labels = torch.tensor([[1, IGNORE, 2], [IGNORE, 3, 4]])
    loss = supervised_cross_entropy(logits, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, supervised_cross_entropy(logits.float(), labels))


def padded(groups: list[int], lengths: list[int], cost: int) -> int:
    """Cost of a cut, counted row by row."""
    return cost * len(groups) + sum(min(group for group in groups if group >= length) for length in lengths)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(0, 40))
def test_no_other_cut_into_groups_costs_less(lengths: list[int], cost: int) -> None:
    found = length_groups(lengths, cost)
    assert found == sorted(set(found))
    assert set(found) <= set(lengths)
    others = [set(some) | {max(lengths)} for n in range(6) for some in combinations(sorted(set(lengths)), n)]
    assert padded(found, lengths, cost) <= min(padded(sorted(other), lengths, cost) for other in others)


def test_groups_hold_every_item_once_with_less_padding() -> None:
    items = [Encoded(str(n), tuple(range(1, 2 + n % 7)), (50 + n,)) for n in range(40)]
    batches = micro_batch(items, 0, cost=8)
    assert len(batches) > 1
    assert sum(batch.num_targets for batch in batches) == 40
    assert sum(batch.num_tokens for batch in batches) == collate(items, 0).num_tokens
    assert sum(batch.input_ids.numel() for batch in batches) < collate(items, 0).input_ids.numel()
    rows = [row[mask.bool()].tolist() for b in batches for row, mask in zip(b.input_ids, b.attention_mask, strict=True)]
    assert sorted(rows) == sorted([*item.context_ids, *item.target_ids] for item in items)


def test_one_group_where_every_rank_must_make_equally_many_passes() -> None:
    items = [Encoded(str(n), tuple(range(1, 2 + n % 7)), (50 + n,)) for n in range(40)]
    assert len(micro_batch(items, 0, cost=None)) == 1
    assert len(micro_batch(items, 0, cost=10**6)) == 1
    assert [batch.num_targets for batch in micro_batch([], 0, cost=8)] == [0]
