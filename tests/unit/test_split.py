"""Splitting by knowledge: exact sizes, no leaks, no dependence on file order, and clear refusals."""

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cpl_ray.assessment import PARTS, Parts, Row, Verdict
from cpl_ray.config import SplitConfig
from cpl_ray.errors import DataError
from cpl_ray.items import Item
from cpl_ray.split import check_leaks, denominator_notices, grade, part_sizes, parts_from_brought, split


def item(name: str, question: str | None = None, answer: str = "yes") -> Item:
    question = question or f"What is the name of thing {name}"
    return Item(id=name, kind="completion", prompt=question, target=answer)


def verdict(name: str, correct: bool, error: str | None = None) -> Verdict:
    return Verdict(name, correct, "yes", 1.0, (), error)


def graded(num_mastered: int, num_injection: int) -> tuple[list[Item], dict[str, Verdict]]:
    """Return items, mastered and injection mixed, with their verdicts."""
    items = [item(f"m{n}") for n in range(num_mastered)] + [item(f"i{n}") for n in range(num_injection)]
    items.sort(key=lambda entry: entry.id[1:])
    return items, {entry.id: verdict(entry.id, entry.id.startswith("m")) for entry in items}


def ids_of(parts: Parts) -> dict[str, list[str]]:
    return {part: [row.item.id for row in rows] for part, rows in parts.items()}


def sets_of(parts: Parts) -> dict[str, set[str]]:
    return {part: set(ids) for part, ids in ids_of(parts).items()}


two_shares = st.tuples(st.floats(0.0, 0.99), st.floats(0.0, 0.99)).filter(lambda shares: sum(shares) < 0.999)


@given(num=st.integers(3, 500), shares=two_shares)
def test_sizes_are_the_rounded_shares_and_leave_training_something(num: int, shares: tuple[float, float]) -> None:
    sizes = part_sizes(num, shares)
    assert sum(sizes) < num
    for size, share in zip(sizes, shares, strict=True):
        assert (size > 0) is (share > 0)
        # Half a question by rounding, and what training and a part raised to one question take back.
        assert size == 1 or abs(size - share * num) < 2


@pytest.mark.parametrize(
    ("num", "shares", "sizes"),
    [
        (10, [0.3, 0.2], [3, 2]),
        (5, [0.3, 0.2], [2, 1]),  # 1.5 is rounded up
        (100, [0.145], [15]),  # 14.5 exactly, although 0.145 * 100 < 14.5 in floats
        (3, [0.3, 0.2], [1, 1]),
        (3, [0.5, 0.4], [1, 1]),  # 2 and 1 would leave nothing for training
        (4, [0.01, 0.01], [1, 1]),
        (2, [0.99], [1]),
        (7, [0.0, 0.0], [0, 0]),
        (1000, [0.3, 0.2], [300, 200]),
    ],
)
def test_sizes_pinned(num: int, shares: list[float], sizes: list[int]) -> None:
    assert part_sizes(num, shares) == sizes


def test_too_few_questions_for_the_shares() -> None:
    with pytest.raises(ValueError, match="too few"):
        part_sizes(2, [0.3, 0.2])


@given(
    num_mastered=st.integers(3, 40),
    num_injection=st.integers(2, 40),
    held_out=st.sampled_from([0.0, 0.1, 0.5]),
    seed=st.integers(0, 5),
)
def test_every_item_is_in_exactly_one_part_of_its_side(
    num_mastered: int, num_injection: int, held_out: float, seed: int
) -> None:
    items, verdicts = graded(num_mastered, num_injection)
    parts = split(items, verdicts, SplitConfig(seed=seed, injection_held_out=held_out))
    ids = ids_of(parts)
    assert tuple(parts) == PARTS
    assert sorted(itertools.chain.from_iterable(ids.values())) == sorted(entry.id for entry in items)
    for part, names in ids.items():
        assert all(name.startswith(part[0]) for name in names)
        assert bool(names) is (part != "injection_held_out" or held_out > 0)
    sizes = part_sizes(num_mastered, [0.3, 0.2])
    assert [len(ids["mastered_test"]), len(ids["mastered_validation"])] == sizes
    check_leaks(parts)
    assert all(row.before is verdicts[row.item.id] for rows in parts.values() for row in rows)


@given(order=st.permutations(range(24)), seed=st.integers(0, 3))
def test_the_order_of_the_file_does_not_matter(order: list[int], seed: int) -> None:
    items, verdicts = graded(14, 10)
    config = SplitConfig(seed=seed, injection_held_out=0.3)
    shuffled = [items[position] for position in order]
    parts = split(shuffled, verdicts, config)
    assert sets_of(parts) == sets_of(split(items, verdicts, config))
    # Within a part, file order is kept.
    for names in ids_of(parts).values():
        places = [[entry.id for entry in shuffled].index(name) for name in names]
        assert places == sorted(places)


def test_ids_do_not_matter() -> None:
    items, verdicts = graded(14, 10)
    renamed = [Item(id=f"row-{n}", kind="completion", prompt=entry.prompt) for n, entry in enumerate(items)]
    again = {f"row-{n}": verdict(f"row-{n}", verdicts[entry.id].correct) for n, entry in enumerate(items)}
    first, second = split(items, verdicts, SplitConfig()), split(renamed, again, SplitConfig())
    for part in PARTS:
        assert [row.item.prompt for row in first[part]] == [row.item.prompt for row in second[part]]


def test_the_seed_decides() -> None:
    items, verdicts = graded(40, 40)
    parts = [sets_of(split(items, verdicts, SplitConfig(seed=seed)))["mastered_test"] for seed in (0, 0, 1, 2)]
    assert parts[0] == parts[1]
    assert parts[0] != parts[2]
    assert parts[2] != parts[3]


def test_a_pinned_split() -> None:
    items, verdicts = graded(6, 3)
    assert ids_of(split(items, verdicts, SplitConfig())) == {
        "mastered_train": ["m1", "m2", "m4"],
        "mastered_validation": ["m0"],
        "mastered_test": ["m3", "m5"],
        "injection_train": ["i0", "i1", "i2"],
        "injection_held_out": [],
    }


def test_places_are_uniform() -> None:
    items, verdicts = graded(30, 1)
    seeds = range(200)
    counts = [
        sum(entry.id in sets_of(split(items, verdicts, SplitConfig(seed=seed)))["mastered_test"] for seed in seeds)
        for entry in items[10:13]
    ]
    # 200 draws of 9 in 30: 60 expected, standard deviation 6.5.
    assert all(35 <= count <= 85 for count in counts)


questions = st.lists(st.integers(0, 12), min_size=12, max_size=40)


@given(asked=questions, right=st.sets(st.integers(0, 12), min_size=4, max_size=9), seed=st.integers(0, 3))
def test_rows_of_one_question_stay_together(asked: list[int], right: set[int], seed: int) -> None:
    items = [item(f"{n}", f"  Question {'No.' if n % 2 else 'NO.'}  {key}") for n, key in enumerate(asked)]
    verdicts = {entry.id: verdict(entry.id, asked[n] in right) for n, entry in enumerate(items)}
    assume(len(set(asked) & right) >= 3)
    assume(len(set(asked) - right) >= 2)
    parts = split(items, verdicts, SplitConfig(seed=seed, injection_held_out=0.4))
    check_leaks(parts)
    assert sum(len(rows) for rows in parts.values()) == len(items)


def test_a_question_answered_both_ways_is_set_aside() -> None:
    items, verdicts = graded(5, 5)
    items += [item("t1", "Which twin?"), item("t2", "  which TWIN? ", "no")]
    verdicts |= {"t1": verdict("t1", True), "t2": verdict("t2", False)}
    aside = grade(items, verdicts).set_aside
    assert [(entry.id, entry.kind) for entry in aside] == [("t1", "contradictory"), ("t2", "contradictory")]
    assert "both rightly and wrongly" in aside[0].reason
    ids = set(itertools.chain.from_iterable(ids_of(split(items, verdicts, SplitConfig())).values()))
    assert ids == {entry.id for entry in items} - {"t1", "t2"}


def test_items_that_could_not_be_scored_are_set_aside() -> None:
    items, verdicts = graded(5, 5)
    verdicts["i0"] = verdict("i0", False, "answer alone is longer than 4 tokens")
    result = grade(items, verdicts)
    assert [(entry.id, entry.kind) for entry in result.set_aside] == [("i0", "error")]
    assert "longer than 4 tokens" in result.set_aside[0].reason
    assert len(result.injection) == 4


@pytest.mark.parametrize(
    ("num_mastered", "num_injection", "config", "message"),
    [
        (0, 0, {}, "no items"),
        (5, 0, {}, "nothing to inject: the model answers all 5"),
        (0, 5, {}, "nothing is mastered: the model answers none of the 5"),
        (2, 5, {}, r"2 distinct mastered .* 3 parts; .*split\.mastered_test=0 and split\.mastered_validation=0"),
        (1, 5, {"mastered_validation": 0.0}, r"1 distinct mastered .* 2 parts; .*split\.mastered_test=0$"),
        (5, 1, {"injection_held_out": 0.5}, r"1 distinct injection .* split\.injection_held_out=0"),
    ],
)
def test_sets_that_cannot_be_split(
    num_mastered: int, num_injection: int, config: dict[str, float], message: str
) -> None:
    items, verdicts = graded(num_mastered, num_injection)
    with pytest.raises(DataError, match=message):
        split(items, verdicts, SplitConfig.model_validate(config))


def test_nothing_scored() -> None:
    items, _ = graded(2, 2)
    with pytest.raises(DataError, match=r"none of the 4 items is usable; .*out of memory"):
        split(items, {entry.id: verdict(entry.id, False, "out of memory") for entry in items}, SplitConfig())


def test_missing_verdicts_and_double_ids() -> None:
    items, verdicts = graded(3, 3)
    with pytest.raises(DataError, match=r"1 items have no verdict .* m0$"):
        grade(items, {name: verdicts[name] for name in verdicts if name != "m0"})
    with pytest.raises(DataError, match="'m1' occurs twice"):
        grade([*items, item("m1")], verdicts)


def rows(*items: Item) -> list[Row]:
    return [Row(entry, None) for entry in items]


@pytest.mark.parametrize("other", ["mastered_test", "injection_train"])
def test_leaks_are_refused_by_question(other: str) -> None:
    parts = {"mastered_train": rows(item("a", "Who are you?")), other: rows(item("b", " who  ARE you? "))}
    with pytest.raises(DataError, match=rf"1 questions .*who are you.*'a' in mastered_train, 'b' in {other}"):
        check_leaks(parts)


def test_many_leaks_name_the_first() -> None:
    names = [str(n) for n in range(5)]
    parts = {
        "mastered_train": rows(*(item(f"a{name}", f"question {name}") for name in names)),
        "injection_train": rows(*(item(f"b{name}", f"question {name}") for name in names)),
    }
    with pytest.raises(DataError, match=r"5 questions .*question 0.*question 2.* …"):
        check_leaks(parts)


def test_a_question_twice_in_one_part_is_no_leak() -> None:
    check_leaks({"injection_train": rows(item("a", "Who?"), item("b", "Who?", "no"))})


def brought(prefix: str, num: int, topic: str) -> list[Item]:
    return [item(f"{prefix}{n}", f"{topic} {n}") for n in range(num)]


def test_brought_sets_are_used_whole() -> None:
    parts = parts_from_brought(brought("m", 4, "A"), brought("h", 3, "B"), brought("i", 5, "C"), brought("j", 2, "D"))
    assert {part: len(part_rows) for part, part_rows in parts.items()} == {
        "mastered_train": 4,
        "mastered_validation": 0,
        "mastered_test": 3,
        "injection_train": 5,
        "injection_held_out": 2,
    }
    assert all(row.before is None for part_rows in parts.values() for row in part_rows)
    assert denominator_notices(parts) == []


def test_brought_sets_with_the_same_ids_are_told_apart_before_scoring() -> None:
    mastered, injection = brought("", 2, "A"), [*brought("", 1, "B"), item("z")]
    assert ids_of(parts_from_brought(mastered, [], injection, [])) == {
        "mastered_train": ["mastered/0", "1"],
        "mastered_validation": [],
        "mastered_test": [],
        "injection_train": ["injection/0", "z"],
        "injection_held_out": [],
    }
    with pytest.raises(DataError, match=r"'0' occurs twice \(data\.mastered, data\.injection\)"):
        parts_from_brought(mastered, [], injection, [], {name: verdict(name, True) for name in ("0", "1", "z")})


def test_brought_rows_against_their_side_stay_and_are_said() -> None:
    answers = {"m0": True, "m1": False, "m2": True, "i0": True, "i1": False}
    verdicts = {name: verdict(name, right) for name, right in answers.items()}
    parts = parts_from_brought(brought("m", 3, "A"), [], brought("i", 2, "B"), [], verdicts)
    assert ids_of(parts)["mastered_train"] == ["m0", "m1", "m2"]
    mastered, injection = denominator_notices(parts)
    assert "data.mastered: the base model does not answer 1 of 3 rows rightly (e.g. m1)" in mastered
    assert "data.injection: the base model does not answer 1 of 2 rows wrongly (e.g. i0)" in injection
    assert "none" not in mastered


def test_brought_sets_without_any_denominator_are_said() -> None:
    verdicts = {name: verdict(name, name == "i0") for name in ("m0", "i0")}
    notices = denominator_notices(parts_from_brought(brought("m", 1, "A"), [], brought("i", 1, "B"), [], verdicts))
    assert "leaves none to measure forgetting on" in notices[0]
    assert "leaves none to measure learning on" in notices[1]


def test_brought_sets_must_not_be_empty_nor_leak() -> None:
    some = brought("m", 2, "A")
    with pytest.raises(DataError, match=r"data\.mastered has no usable items"):
        parts_from_brought([], [], some, [])
    with pytest.raises(DataError, match=r"data\.injection has no usable items"):
        parts_from_brought(some, [], [], [])
    with pytest.raises(DataError, match="more than one part"):
        parts_from_brought(some, [], brought("i", 1, "A"), [])
