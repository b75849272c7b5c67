"""Memory by role for ZeRO 0 to 3: pinned on a model small enough to count by hand, and what must hold for any."""

from dataclasses import replace

import pytest

from cpl_ray.census import Census, Weight
from cpl_ray.footprint import Setup, flat_sizes, footprint

CENSUS = Census(
    (
        Weight("model.embed_tokens.weight", 1000, True),
        Weight("model.layers.0.self_attn.q_proj.weight", 101, True),
        Weight("model.layers.0.mlp.up_proj.weight", 50, False),
        Weight("model.norm.weight", 10, True, matrix=False),
    ),
    tied=True,
)
SETUP = Setup(stage=0, world_size=4, offload=False, element=4, moments=8000, mastered=1000, bucket=64, threshold=20)
BESIDE, FREED = 300, 500


def test_counts_by_kind_and_cut() -> None:
    assert (CENSUS.total, CENSUS.trainable, CENSUS.largest, CENSUS.head) == (1161, 1111, 1000, 1000)
    assert CENSUS.by_kind() == {"embedding": 1000, "attention": 101, "feed-forward": 50, "norm": 10}
    assert (CENSUS.matrices(), CENSUS.matrices(trained=True)) == (151, 101)
    assert CENSUS.group(4) == 1112
    assert CENSUS.shards(4) == 250 + 26 + 3
    assert CENSUS.shards(4, trained=False) == 250 + 26 + 13 + 3
    assert CENSUS.owned(4) == 1111, "the last part of 278 elements has the embedding's end, attention and norm"
    assert CENSUS.small(20) == 10


@pytest.mark.parametrize(("stage", "elements"), [(0, [1000, 101, 10]), (1, [278]), (2, [278]), (3, [279])])
def test_tensors_of_the_optimizer(stage: int, elements: list[int]) -> None:
    assert flat_sizes(CENSUS, stage, 4) == elements


def test_stage_0_keeps_everything_on_every_rank() -> None:
    found = footprint(CENSUS, SETUP, BESIDE, FREED)
    assert (found.parameters, found.masters, found.gradients) == (4 * 1161, 0, 4 * 1111)
    assert (found.moments, found.mastered, found.guard, found.host) == (8000, 1000, 0, 0)
    assert found.working == 18 * 1000, "the largest parameter's chunk of the step is more than the activations"
    assert footprint(CENSUS, SETUP, 10**6, FREED).working == 10**6


def test_partitions_shrink_masters_and_gradients() -> None:
    by_stage = {stage: footprint(CENSUS, replace(SETUP, stage=stage), BESIDE, FREED) for stage in (1, 2, 3)}
    assert by_stage[1].parameters == by_stage[2].parameters == 4 * (1112 + 50)
    assert by_stage[3].parameters == 4 * (250 + 26 + 13 + 3)
    assert [by_stage[stage].masters for stage in (1, 2, 3)] == [4 * 278, 4 * 278, 4 * 279]
    assert by_stage[1].gradients == 4 * 1111
    assert by_stage[2].gradients == 4 * 1111, "parameters on the border of two parts are copied whole"
    assert by_stage[3].gradients == 4 * 279


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_offload_moves_state_into_cpu_memory(stage: int) -> None:
    near = footprint(CENSUS, replace(SETUP, stage=stage, guard=4), BESIDE, FREED)
    far = footprint(CENSUS, replace(SETUP, stage=stage, guard=4, offload=True), BESIDE, FREED)
    assert far.masters == far.moments == far.mastered == far.guard == 0
    assert far.total < near.total
    assert far.host >= near.masters + near.moments + near.mastered + near.guard
    assert far.everything == far.total + far.host


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_total_is_the_sum_and_grows_with_the_batch_one_to_one(stage: int) -> None:
    setup = replace(SETUP, stage=stage)
    large, larger = (footprint(CENSUS, setup, 10**6 * n, 10**6 * n) for n in (1, 2))
    roles = ("parameters", "masters", "gradients", "moments", "mastered", "guard", "buckets", "working")
    assert large.total == sum(large.to_dict()[role] for role in roles) == large.to_dict()["total"]
    assert larger.total - large.total == 10**6


def test_bfloat16_halves_parameters_and_keeps_float32_masters_and_gradients() -> None:
    full, half = (footprint(CENSUS, replace(SETUP, stage=2, element=e), BESIDE, FREED) for e in (4, 2))
    assert half.parameters * 2 == full.parameters
    assert half.masters == full.masters
    assert half.gradients == 4 * 278
