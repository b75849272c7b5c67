"""Padding, labels and loss: only answer tokens count, wherever they are and whatever stands beside them."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cpl_ray.batches import collate
from cpl_ray.encoding import Encoded
from cpl_ray.loss import IGNORE, supervised_cross_entropy

IDS = st.lists(st.integers(0, 8), min_size=1, max_size=6).map(tuple)
ITEMS = st.lists(st.builds(lambda c, t: Encoded("x", c, t), IDS, IDS), min_size=1, max_size=5)


@given(ITEMS)
@settings(deadline=None)
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
