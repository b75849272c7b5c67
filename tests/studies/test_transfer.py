"""The study `transfer`: overlaps by hand, masks on disk and in training, words that follow the numbers."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cpl_ray.masks import conflict_shares, load_masks, overlaps, save_masks, shuffled
from cpl_ray.measures import two_by_two
from cpl_ray.probes.classes import ClassesProbe, FixedMaskProbe
from cpl_ray.studies.overlap import Overlap
from cpl_ray.studies.transfer import analyse, rank_correlation
from tests.oracle.toy import toy_model
from tests.studies.probing import same, toy_config, train


def test_overlap_by_hand() -> None:
    one = Overlap(both=40, only_first=10, only_second=20, neither=30)
    assert one.agreement == 0.7
    assert one.jaccard == 0.5  # 30 conflicting in both of 60 in either
    # first collaborative 0.5, second 0.6: chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5
    assert one.kappa == pytest.approx(0.4)
    assert Overlap(25, 25, 25, 25).kappa == 0.0
    assert Overlap(60, 0, 0, 40).kappa == 1.0
    assert Overlap(100, 0, 0, 0).kappa == Overlap(100, 0, 0, 0).jaccard == 1.0


def test_overlaps_are_counted_by_type() -> None:
    first = {"a.q_proj.weight": torch.tensor([True, True, False]), "norm.weight": torch.tensor([False, True])}
    second = {"a.q_proj.weight": torch.tensor([True, False, False]), "norm.weight": torch.tensor([True, True])}
    found = overlaps(first, second)
    assert found["q"] == Overlap(1, 1, 0, 1)
    assert found["norm"] == Overlap(1, 0, 1, 0)
    assert found["all"] == Overlap(2, 1, 1, 1)
    assert conflict_shares(first) == {"q": pytest.approx(1 / 3), "all": pytest.approx(2 / 5), "norm": 0.5}
    with pytest.raises(ValueError, match="other parameters"):
        overlaps(first, {"norm.weight": torch.tensor([True])})


def test_masks_survive_the_disk_and_shuffling_keeps_their_density(tmp_path: Path) -> None:
    masks = {"a": torch.rand(13) > 0.5, "b": torch.rand(8) > 0.5}
    save_masks(tmp_path / "m.safetensors", masks)
    read = load_masks(tmp_path / "m.safetensors")
    assert all(torch.equal(read[name], mask) for name, mask in masks.items())
    for name, mask in shuffled(masks, 1).items():
        assert mask.sum() == masks[name].sum()


def test_training_on_the_mask_of_a_step_makes_that_step_again(tmp_path: Path) -> None:
    config = toy_config(epochs=1, max_steps=1)
    by_rule = train(config, ClassesProbe(tmp_path, every=1))
    masks = load_masks(tmp_path / "step_00000001.safetensors")
    assert 0.2 < conflict_shares(masks)["all"] < 0.8
    plain = toy_config(rule="none", epochs=1, max_steps=1)
    again = train(plain, FixedMaskProbe(tmp_path, mask=tmp_path / "step_00000001.safetensors"))
    assert same(by_rule, train(config))  # the probe itself changes nothing
    assert same(again, by_rule)
    assert not same(again, train(plain))
    untouched = dict(toy_model().named_parameters())
    for name, moved in again.named_parameters():
        assert torch.equal((moved != untouched[name]).view(-1) & ~masks[name], torch.zeros_like(masks[name]))
    other = FixedMaskProbe(tmp_path, mask=tmp_path / "step_00000001.safetensors", shuffle_seed=0)
    assert not same(train(plain, other), again)


def test_a_mask_of_another_model_is_refused(tmp_path: Path) -> None:
    save_masks(tmp_path / "m.safetensors", {"model.embed_tokens.weight": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"does not fit parameter model\.embed_tokens\.weight"):
        train(toy_config(rule="none"), FixedMaskProbe(tmp_path, mask=tmp_path / "m.safetensors"))


def test_the_verdict_says_what_the_numbers_say() -> None:
    def row(comparison: str, found: Overlap) -> dict[str, Any]:
        return {"comparison": comparison, "type": "all", **found.to_dict()}

    overlap = [row("seeds: last update", Overlap(45, 5, 5, 45)), row("tasks: last update", Overlap(25, 25, 25, 25))]
    training = [
        {"mask": mask, "learned": 9, "learned_of": 10, "forgotten": forgotten, "forgotten_of": 50}
        for mask, forgotten in (("fresh", 1), ("fixed", 7), ("shuffled", 9))
    ]
    fresh = {str(i): i < 1 for i in range(50)}
    paired = {
        "fixed": two_by_two({str(i): i < 7 for i in range(50)}, fresh),
        "shuffled": two_by_two({str(i): i < 9 for i in range(50)}, fresh),
    }
    types = [{"model": "m", "type": "q", "conflict_share": 0.5}]
    found = analyse(overlap, types, training, paired, {"other": 0.5})
    assert "carries over for: seeds: last update, and for the others it does not" in found.verdict
    assert "forgets 6 more than fresh masks (McNemar p 0.031)" in found.verdict
    assert found.headline["kappa_tasks_last_update"] == 0.0
    assert found.headline["forgotten_fixed"] == 0.14


def test_rank_correlation_needs_three_types() -> None:
    shares = {"q": 0.1, "k": 0.2, "v": 0.3, "all": 0.9}
    assert rank_correlation(shares, {"q": 0.5, "k": 0.6, "v": 0.7}) == pytest.approx(1.0)
    assert rank_correlation(shares, {"q": 0.5, "k": 0.6, "all": 0.7}) is None
