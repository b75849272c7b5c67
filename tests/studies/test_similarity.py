"""The study `similarity`: sums, histogram and items against autograd, AUC against counting, words against numbers."""

import itertools
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import nn

from cpl_ray.layout import Layout, Piece
from cpl_ray.probes.similarity import LOWEST, NUM_BINS, PER_DECADE, SimilarityProbe, histogram, parameter_sums
from cpl_ray.studies.auc import auc
from cpl_ray.studies.names import parameter_type
from cpl_ray.studies.similarity import analyse, with_fate
from tests.oracle.toy import toy_model
from tests.oracle.transcription import mean_gradient
from tests.studies.probing import INJECTION, MASTERED, rows, same, toy_config, train


@pytest.mark.parametrize("rule", ["none", "cpl"])
def test_the_probe_changes_nothing(rule: str, tmp_path: Path) -> None:
    config = toy_config(rule=rule)
    probe = SimilarityProbe(tmp_path, every=1, items=3)
    assert same(train(config, probe, dropout=0.2), train(config, dropout=0.2))


def test_numbers_are_those_of_autograd(tmp_path: Path) -> None:
    train(toy_config(rule="none"), SimilarityProbe(tmp_path, every=4, items=5), dtype=torch.float64)
    model = toy_model(torch.float64)
    names = [name for name, _ in model.named_parameters()]
    of_mastered, of_injection = mean_gradient(model, MASTERED), mean_gradient(model, INJECTION)
    contributions = {n: m * i for n, m, i in zip(names, of_mastered, of_injection, strict=True)}
    parameters = [row for row in rows(tmp_path, "parameters") if row["step"] == 0]
    assert [row["parameter"] for row in parameters] == names
    for row in parameters:
        s = contributions[row["parameter"]]
        assert (row["conflict"], row["zero"], row["numel"]) == (int((s < 0).sum()), int((s == 0).sum()), s.numel())
        assert row["negative_mass"] == pytest.approx(float(s.clamp(max=0).sum()), rel=1e-9)
    course = rows(tmp_path, "course")
    assert [row["step"] for row in course] == [0, 4, 6]
    assert course[0]["similarity"] == pytest.approx(float(sum(s.sum() for s in contributions.values())), rel=1e-9)
    for row, item in zip(rows(tmp_path, "items"), MASTERED, strict=False):
        own = mean_gradient(model, [item])
        expected = sum(float((a * b).sum()) for a, b in zip(own, of_injection, strict=True))
        assert row["similarity"] == pytest.approx(expected, rel=1e-9)
    assert [row["id"] for row in rows(tmp_path, "items")] == ["0", "1", "2", "3", "4"]
    flat = torch.cat([s.view(-1) for s in contributions.values()])
    bins = rows(tmp_path, "histogram")
    assert sum(row["count"] for row in bins) == int((flat != 0).sum())
    for row in bins[1 : NUM_BINS - 1]:  # the outer bins take what lies beyond them too
        size = (-flat).log10()
        assert row["count"] == int(((size >= row["log10_low"]) & (size < row["log10_high"])).sum())


def test_padding_is_not_counted_and_signs_do_not_underflow() -> None:
    layout = Layout({"a": (2,), "b": (3,)}, ((Piece("a", (2,), 0, slice(0, 2)), Piece("b", (3,), 1, slice(3, 5))),))
    update = torch.tensor([1e-30, -2.0, 9.0, 0.0, 1.0])
    mastered = torch.tensor([-1e-30, -3.0, -9.0, 5.0, -10.0])
    assert parameter_sums(layout, [update], [mastered]).tolist() == [
        [1.0, 0.0, pytest.approx(-1e-60, rel=1e-5), 6.0],
        [1.0, 1.0, -10.0, 0.0],
    ]
    counts = histogram(layout, [update], [mastered])
    assert counts.sum(dim=1).tolist() == [2.0, 1.0]
    assert counts[0, 0] == 1  # far below the lowest bin
    assert counts[0, (1 - LOWEST) * PER_DECADE] == 1


def by_counting(scores: list[float], group: list[bool]) -> float:
    pairs = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for (a, inside), (b, other) in itertools.product(zip(scores, group, strict=True), repeat=2)
        if inside and not other
    ]
    return sum(pairs) / len(pairs)


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_the_share_of_pairs(seed: int) -> None:
    rng = random.Random(seed)
    group = [index % 3 == 0 for index in range(40)]
    scores = [round(rng.gauss(1.0 if inside else 0.0, 1.0), 1) for inside in group]  # rounded: with ties
    found = auc(scores, group)
    assert found is not None
    assert found.value == pytest.approx(by_counting(scores, group))
    assert found.low <= found.value <= found.high


def test_interval_of_the_auc_covers_the_truth() -> None:
    # scores N(1, 1) against N(0, 1): the true area is Phi(1 / sqrt 2) = 0.7602
    rng = random.Random(0)
    group = [True] * 60 + [False] * 60
    hits = 0
    for _ in range(200):
        found = auc([rng.gauss(float(inside), 1.0) for inside in group], group)
        assert found is not None
        hits += found.low <= 0.7602 <= found.high
    assert 180 <= hits <= 199


def test_auc_needs_two_on_each_side() -> None:
    assert auc([1.0, 2.0, 3.0], [True, False, False]) is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.layers.3.self_attn.q_proj.weight", "q"),
        ("model.layers.3.mlp.down_proj.weight", "down"),
        ("model.layers.3.post_attention_layernorm.weight", "norm"),
        ("model.layers.3.self_attn.q_norm.weight", "norm"),
        ("model.embed_tokens.weight", "embedding"),
        ("lm_head.weight", "head"),
        ("transformer.h.0.attn.c_attn.weight", "qkv"),
        ("model.layers.0.block_sparse_moe.router.weight", "other"),
    ],
)
def test_types_by_name(name: str, kind: str) -> None:
    assert parameter_type(name) == kind


def tables(conflict: int, zero: int, similarities: list[float], forgotten: list[bool]) -> dict[str, pa.Table]:
    sums = {"conflict": conflict, "zero": zero, "similarity": -1.0, "numel": 100}
    items = [
        {"id": str(i), "similarity": s, "cosine": s / 9, "loss": 1.0, "forgotten": f}
        for i, (s, f) in enumerate(zip(similarities, forgotten, strict=True))
    ]
    made: dict[str, list[dict[str, Any]]] = {
        "course": [{"step": 0, **sums}, {"step": 5, **sums}],
        "parameters": [{"step": 0, "layer": "norm", "type": "norm", **sums}],
        "histogram": [],
        "items": items,
    }
    return {name: pa.Table.from_pylist(content) for name, content in made.items()}


def test_the_verdict_says_what_the_numbers_say() -> None:
    fates = [True, True, True, False, False, False]
    good = analyse(tables(60, 0, [-3.0, -2.0, -4.0, 1.0, 2.0, -1.0], fates), "sgd")
    assert "holds here" in good.verdict
    assert "predicts which items are forgotten" in good.verdict
    assert good.headline["auc_similarity"] == 1.0
    assert "SGD" not in good.verdict
    bad = analyse(tables(30, 50, [3.0, 2.0, 4.0, -1.0, -2.0, 1.0], fates), "adamw")
    assert "u = g_I as in plain SGD, although this run's optimizer is adamw" in bad.verdict
    assert "does not hold here over all parameters, but does among those that are not zero" in bad.verdict
    assert "the opposite" in bad.verdict
    none = analyse(tables(30, 0, [1.0, 2.0], [False, False]), "sgd")
    assert "cannot be told here" in none.verdict
    assert none.headline["auc_similarity"] is None


def test_fate_is_that_of_the_ledger() -> None:
    items = pa.Table.from_pylist(
        [{"id": "a", "similarity": 1.0}, {"id": "b", "similarity": 2.0}, {"id": "c", "similarity": 3.0}]
    )
    ledger = pa.Table.from_pylist(
        [{"id": i, "flip": f, "before_margin": 0.5} for i, f in (("a", "kept"), ("b", "forgotten"), ("c", None))]
    )
    assert [(row["id"], row["forgotten"]) for row in with_fate(items, ledger).to_pylist()] == [
        ("a", False),
        ("b", True),
    ]


def test_the_model_is_left_in_its_mode(tmp_path: Path) -> None:
    model: nn.Module = train(toy_config(rule="none"), SimilarityProbe(tmp_path, every=1, items=1))
    assert model.training
