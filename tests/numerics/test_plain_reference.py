"""The benchmark's plain-torch training is the reference algorithm: float64 parameters equal the transcription's."""

import pytest
import torch

from benchmarks import plain_reference
from cpl_ray.encoding import Encoded
from tests.oracle import transcription
from tests.oracle.toy import toy_items, toy_model

MASTERED, INJECTION = toy_items(7, seed=1), toy_items(5, seed=2)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_equals_the_transcription(optimizer: str, weight_decay: float) -> None:
    plain, reference = toy_model(torch.float64), toy_model(torch.float64)
    lr = 0.05 if optimizer == "sgd" else 1e-3
    mastered, injection = (
        plain_reference.plain_items([Encoded(str(i), tuple(p), tuple(a)) for i, (p, a) in enumerate(items)])
        for items in (MASTERED, INJECTION)
    )
    training = plain_reference.train(plain, mastered, injection, optimizer=optimizer, lr=lr, weight_decay=weight_decay)
    for _ in range(3):
        next(training)
    transcription.train(reference, MASTERED, INJECTION, optimizer=optimizer, lr=lr, epochs=3, weight_decay=weight_decay)
    before = toy_model(torch.float64)
    for mine, theirs, start in zip(plain.parameters(), reference.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)
        assert not torch.equal(mine, start)


def test_an_unknown_optimizer_is_named() -> None:
    with pytest.raises(ValueError, match="'lion'"):
        next(plain_reference.train(toy_model(), [], [], optimizer="lion", lr=1.0))
