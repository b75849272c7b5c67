"""The study `optimizers`: settings of its runs, and numbers and words that follow from them."""

from pathlib import Path
from typing import Any

import pytest

from cpl_ray.compare_choice import Measured
from cpl_ray.contenders import RATE
from cpl_ray.figures_optimizers import draw_optimizers
from cpl_ray.measures import TwoByTwo
from cpl_ray.studies.optimizers import MASKS, analyse, row_of, settings_of
from cpl_ray.trials import Trial


def measured(*, rate: float, forgotten: int, against: int, reached: bool = True) -> Measured:
    parts = {"held_out": (forgotten, 50), "validation": (0, 20), "in_set": (0, 100)}
    result = {
        "stopped_at_learned": reached,
        "learned": {"count": 9, "of": 10},
        "forgotten": {name: {"count": count, "of": of} for name, (count, of) in parts.items()},
        "steps": 30,
        "mastered_size": 100,
        "mastered_sha256": "0",
        "moved_against": against,
        "moved_share": 0.5,
        "num_params": 200,
        "collaborative_share": 0.6,
        "flip_rate": 0.25,
    }
    return Measured(Trial(0, 0, {RATE: rate}, 0).measured(result), result)


def rows(optimizer: str, counts: tuple[int, int, int], *, against: tuple[int, int], reached: bool = True) -> list[Any]:
    return [
        row_of(optimizer, mask, measured(rate=0.1, forgotten=count, against=moved, reached=reached))
        for mask, count, moved in zip(MASKS, counts, (*against, 0), strict=True)
    ]


def test_settings_are_those_of_the_paper() -> None:
    momentum = settings_of("momentum", "gradient", 0.1, 0.3)
    assert (momentum["optimizer.name"], momentum["optimizer.momentum"]) == ("sgd", 0.9)
    assert (momentum["train.rule"], momentum["train.mask_on"]) == ("cpl", "gradient")
    assert momentum["optimizer.weight_decay"] == 0.0  # decoupled decay is AdamW's alone
    assert settings_of("adamw", "update", 0.1, 0.0)["optimizer.weight_decay"] == 0.1
    assert settings_of("adamw", "update", 0.1, 0.3)["optimizer.weight_decay"] == 0.3
    plain = settings_of("sgd", "none", 0.1, 0.0)
    assert (plain["train.rule"], plain["optimizer.momentum"]) == ("none", 0.0)
    assert "train.mask_on" not in plain


def test_moves_against_are_counted_of_all_moves() -> None:
    row = row_of("adam", "gradient", measured(rate=0.1, forgotten=3, against=300))
    assert (row["moves"], row["moved_against"]) == (3000, 300)  # half of 200 values in each of 30 updates
    assert (row["forgotten_held_out"], row["forgotten_held_out_of"], row["updates"]) == (3, 50, 30)
    plain = row_of("adam", "none", measured(rate=0.1, forgotten=3, against=0))
    assert (plain["moves"], plain["moved_against"]) == (None, None)


def test_the_verdict_says_what_the_numbers_say() -> None:
    chosen = [*rows("sgd", (1, 1, 2), against=(0, 0)), *rows("adam", (1, 9, 20), against=(0, 300))]
    paired = {
        ("sgd", "gradient"): TwoByTwo(1, 0, 0, 49),
        ("sgd", "none"): TwoByTwo(1, 0, 1, 48),
        ("adam", "gradient"): TwoByTwo(1, 0, 8, 41),
        ("adam", "none"): TwoByTwo(1, 0, 19, 30),
    }
    found = analyse(chosen, [{**row, "chosen": True} for row in chosen], paired)
    assert "no stored value moved against g_M with sgd and adam." in found.verdict
    assert "sgd 0 of 3000 moves (0.0 %); adam 300 of 3000 moves (10.0 %)." in found.verdict
    assert (
        "Against plain fine-tuning (exact McNemar) the mask on the update forgets fewer items of M test with adam "
        "(1 against 20, p 3.8e-06); is not shown to differ with sgd (1 against 2, p 1)." in found.verdict
    )
    assert "forgets fewer items of M test with adam (1 against 9, p 0.0078)" in found.verdict
    assert found.headline["moved_against_share_adam_gradient"] == 0.1
    assert found.headline["mcnemar_sgd_none"] == 1.0
    assert found.headline["forgotten_adam_none"] == 0.4
    assert {name: table.num_rows for name, table in found.tables.items()} == {"optimizers": 6, "rates": 6, "paired": 4}


def test_a_broken_invariant_and_a_missed_target_are_said() -> None:
    broken = rows("adam", (1, 9, 20), against=(7, 300))
    paired = {("adam", "none"): TwoByTwo(1, 0, 19, 30)}
    assert "moved against g_M, which must not be: 7 with adam" in analyse(broken, broken, paired).verdict
    late = rows("adam", (1, 9, 20), against=(0, 0), reached=False)
    verdict = analyse(late, late, paired).verdict
    assert "target missed, forgot 1 of 50" in verdict
    assert "learned not equally much (a target was missed), so that forgetting says little, with adam" in verdict
    assert "forgets fewer" not in verdict


@pytest.mark.parametrize("mask", ["update", "gradient"])
def test_without_a_measured_mask_nothing_is_claimed_of_it(mask: str) -> None:
    left = [row for row in rows("adam", (1, 9, 20), against=(0, 300)) if row["mask"] != mask]
    verdict = analyse(left, left, {}).verdict
    assert ("no stored value moved against" in verdict) is (mask == "gradient")
    assert ("With the mask on the gradient these went" in verdict) is (mask == "update")


def test_the_figure_is_drawn_also_where_a_mask_is_missing(tmp_path: Path) -> None:
    left = rows("adam", (1, 9, 20), against=(0, 300))[:2]
    (path,) = draw_optimizers(analyse(left, left, {}), tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")
