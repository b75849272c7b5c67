"""Mastered subsets: of the size asked for, nested, by seed, and independent of the file's order."""

import itertools

import pytest

from cpl_ray.assessment import PARTS, Assessment, Row
from cpl_ray.digest import items_digest
from cpl_ray.errors import DataError
from cpl_ray.items import Item
from cpl_ray.subset import with_mastered_size


def assessment(num_items: int, *, reverse: bool = False) -> Assessment:
    items = [Item(f"i{n}", "completion", target=f"t{n}", prompt=f"prompt {n}") for n in range(num_items)]
    rows = [Row(item, None) for item in (reversed(items) if reverse else items)]
    return Assessment({**{part: [] for part in PARTS}, "mastered_train": rows})


def ids(one: Assessment) -> list[str]:
    return [row.item.id for row in one.parts["mastered_train"]]


def digest(one: Assessment) -> str:
    return items_digest(row.item for row in one.parts["mastered_train"])


def test_nested_and_in_file_order() -> None:
    whole = assessment(60)
    sets = [ids(with_mastered_size(whole, size, seed=3)) for size in (1, 7, 30, 59, 60)]
    assert [len(one) for one in sets] == [1, 7, 30, 59, 60]
    for smaller, larger in itertools.pairwise(sets):
        assert set(smaller) < set(larger)
    for one in sets:
        assert one == [name for name in ids(whole) if name in one]


def test_seed_decides_and_file_order_does_not() -> None:
    first = with_mastered_size(assessment(60), 20, seed=3)
    assert set(ids(first)) == set(ids(with_mastered_size(assessment(60, reverse=True), 20, seed=3)))
    assert set(ids(first)) != set(ids(with_mastered_size(assessment(60), 20, seed=4)))
    assert digest(first) == digest(with_mastered_size(assessment(60, reverse=True), 20, seed=3))
    assert digest(first) != digest(with_mastered_size(assessment(60), 21, seed=3))


def test_all_or_too_many() -> None:
    whole = assessment(5)
    assert with_mastered_size(whole, None, seed=0) is whole
    assert with_mastered_size(whole, 5, seed=0) is whole
    with pytest.raises(DataError, match=r"train\.mastered_size is 6, but M train has 5 items"):
        with_mastered_size(whole, 6, seed=0)
