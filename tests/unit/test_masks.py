"""Random mask, HFT, MoFO and cautious updates: values by hand, properties, and the same however parameters are cut."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cpl_ray.config import Config
from cpl_ray.config_methods import MASTERED, Rule
from cpl_ray.errors import ConfigError, LayoutError
from cpl_ray.layout import Layout, Piece
from cpl_ray.mastered import CHUNK
from cpl_ray.methods.base import Method
from cpl_ray.methods.build import METHODS, build_method
from cpl_ray.methods.cautious import Cautious
from cpl_ray.methods.hft import HFT, frozen_parameters
from cpl_ray.methods.mofo import MoFO, largest_keys, order_keys
from cpl_ray.methods.random_mask import RandomMask
from cpl_ray.optimizer import CPLOptimizer, Mode
from cpl_ray.wrapped import WrappedOptimizer
from tests.oracle.partitions import Cut, Values, random_values, train

SHAPES: dict[str, tuple[int, ...]] = {
    "embed.weight": (11, 3),
    "layers.0.self_attn.q_proj.weight": (CHUNK + 13,),
    "layers.0.self_attn.k_proj.weight": (1,),
    "layers.0.self_attn.v_proj.weight": (5, 7),
    "layers.0.self_attn.o_proj.weight": (64, 3),
}
TOTAL = sum(torch.Size(shape).numel() for shape in SHAPES.values())
HALF = -(-TOTAL // 2)
CUTS = [([TOTAL], 1), ([40, CHUNK - 30, TOTAL + 7 - CHUNK], 1), ([HALF, HALF], 2), ([HALF // 2 + 1] * 4, 2)]
ADAMW: dict[str, Any] = {"name": "adamw", "lr": 1e-2, "weight_decay": 0.1}
Change = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
MOMENTUM: dict[str, Any] = {"name": "sgd", "lr": 1e-2, "momentum": 0.9, "weight_decay": 0.1}


def gradients(dtype: torch.dtype = torch.float32) -> list[Values]:
    """Three gradients; the first rows of the embedding have none, like tokens that a batch does not contain."""
    pushes = [random_values(SHAPES, seed, dtype) for seed in (1, 2, 3)]
    for push in pushes:
        push["embed.weight"][:4] = 0
    return pushes


def one_tensor(method: Method, values: list[float], **options: Any) -> Callable[[list[float]], list[float]]:
    """Return a function that updates one parameter `w` by a gradient and returns its values."""
    param = torch.nn.Parameter(torch.tensor(values, dtype=torch.float64))
    optimizer = CPLOptimizer([param], method=method, **options)
    shape = (len(values),)
    method.bind(Layout({"w": shape}, ((Piece("w", shape, 0, slice(0, len(values))),),)))

    def update(gradient: list[float]) -> list[float]:
        param.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.start(Mode.UPDATE)
        optimizer.step()
        return param.detach().tolist()

    return update


@pytest.mark.parametrize("options", [ADAMW, MOMENTUM], ids=["adamw", "momentum"])
@pytest.mark.parametrize(
    "method",
    [lambda: RandomMask(0.4, 5), lambda: HFT(0), lambda: MoFO(0.3), lambda: Cautious(decoupled=True)],
    ids=["random_mask", "hft", "mofo", "cautious"],
)
def test_however_the_parameters_are_cut(method: Callable[[], Method], options: dict[str, Any]) -> None:
    start, pushes = random_values(SHAPES, 0), gradients()
    results = [train(Cut(SHAPES, sizes), start, pushes, method, ranks, **options) for sizes, ranks in CUTS]
    assert not torch.equal(results[0]["embed.weight"], start["embed.weight"])
    for other in results[1:]:
        for name in SHAPES:
            assert torch.equal(results[0][name], other[name]), name


def adamw_steps(start: Values, pushes: list[Values], change: Change) -> Values:
    """AdamW by its formulas, per parameter; `change(u, m, g, decay)` returns what is applied."""
    result = {}
    for name, theta in start.items():
        theta, m, v = theta.clone(), torch.zeros_like(theta), torch.zeros_like(theta)
        for t, push in enumerate(pushes, start=1):
            g = push[name]
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            u = (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
            theta = theta - 1e-2 * change(u, m, g, 0.1 * theta)
        result[name] = theta
    return result


def cautious_change(u: Tensor, m: Tensor, g: Tensor, decay: Tensor) -> Tensor:
    mask = (u * g > 0).double()
    return u * mask * mask.numel() / (mask.sum() + 1) + decay


def mofo_change(u: Tensor, m: Tensor, g: Tensor, decay: Tensor) -> Tensor:
    k = max(1, int(m.numel() * 0.3))
    return (u + decay) * (m.abs() >= torch.topk(m.abs().view(-1), k).values.min())


@pytest.mark.parametrize(
    ("method", "change"),
    [(lambda: MoFO(0.3), mofo_change), (lambda: Cautious(decoupled=True), cautious_change)],
    ids=["mofo", "cautious"],
)
def test_equals_the_published_formula(method: Callable[[], Method], change: Change) -> None:
    start, pushes = random_values(SHAPES, 0, torch.float64), gradients(torch.float64)
    ours = train(Cut(SHAPES, [HALF, HALF]), start, pushes, method, 2, **ADAMW)
    theirs = adamw_steps(start, pushes, change)
    for name in SHAPES:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-10)


def test_mofo_by_hand() -> None:
    update = one_tensor(MoFO(0.5), [10.0, 0.0, 0.0, 0.0], name="sgd", lr=0.1, momentum=0.9)
    assert update([1.0, -4.0, 3.0, 0.5]) == pytest.approx([10.0, 0.4, -0.3, 0.0])
    # m = 0.9 * m + g = [0.9, -3.6, 0.0, 5.45]
    assert update([0.0, 0.0, -2.7, 5.0]) == pytest.approx([10.0, 0.76, -0.3, -0.545])
    decayed = one_tensor(MoFO(0.5), [10.0, 10.0], name="adamw", lr=0.1, weight_decay=0.5)
    assert decayed([1.0, 2.0]) == [10.0, pytest.approx(10 - 0.1 * (1 + 5))]


def test_mofo_moves_all_ties_and_at_least_one_element() -> None:
    tied = one_tensor(MoFO(0.4), [0.0] * 5, name="sgd", lr=1.0, momentum=0.9)
    assert tied([2.0, -2.0, 2.0, 1.0, 3.0]) == [-2.0, 2.0, -2.0, 0.0, -3.0]
    few = one_tensor(MoFO(0.01), [0.0] * 5, name="sgd", lr=1.0, momentum=0.9)
    assert few([1.0, -2.0, 1.0, 1.0, 1.5]) == [0.0, 2.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, 32), (torch.float64, 64)])
def test_selection_finds_the_kth_largest(dtype: torch.dtype, bits: int) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(size, generator=generator, dtype=dtype) for size in (1, 2, 100, 5000)]
    tensors += [torch.zeros(9, dtype=dtype), torch.tensor([0.0, -0.0, 1e-45, -3e38, 1e-40], dtype=dtype)]
    ranks = [1, 2, 37, 2500, 4, 3]
    runs = [(number, part) for number, tensor in enumerate(tensors) for part in order_keys(tensor).split(700)]
    k = torch.tensor(ranks, dtype=torch.float64)
    found = largest_keys(lambda: iter(runs), k, bits, lambda counts: counts)
    for key, tensor, rank in zip(found, tensors, ranks, strict=True):
        assert key == order_keys(torch.topk(tensor.abs(), rank).values[-1:])[0]


def test_all_elements_move_at_density_one() -> None:
    start, pushes, cut = random_values(SHAPES, 0), gradients(), Cut(SHAPES, [TOTAL + 3])
    plain = train(cut, start, pushes, Method, **ADAMW)
    for method in (lambda: MoFO(1.0), lambda: RandomMask(1.0, 0)):
        same = train(cut, start, pushes, method, **ADAMW)
        assert all(torch.equal(same[name], plain[name]) for name in SHAPES)


def test_cautious_by_hand() -> None:
    update = one_tensor(Cautious(decoupled=False), [0.0] * 4, name="sgd", lr=0.1, momentum=0.5)
    assert update([1.0, -1.0, 2.0, 0.0]) == pytest.approx([-0.1, 0.1, -0.2, 0.0])  # three agree: 4 / (3 + 1)
    # m = [0.3, -0.4, -2.0, 1.0]: the last two agree, 4 / (2 + 1)
    assert update([-0.2, 0.1, -3.0, 1.0]) == pytest.approx([-0.1, 0.1, -0.2 + 0.8 / 3, -0.4 / 3])
    plain = one_tensor(Cautious(decoupled=False), [0.0, 5.0], name="sgd", lr=0.1)
    assert plain([3.0, 0.0]) == pytest.approx([-0.3, 5.0])  # without momentum: 2 / (1 + 1)


def test_cautious_decay() -> None:
    decoupled = one_tensor(Cautious(decoupled=True), [1.0, 10.0], name="adamw", lr=0.1, weight_decay=0.5)
    assert decoupled([-1.0, 0.0]) == pytest.approx([1 + 0.1 * 1 - 0.05, 10 - 0.5])  # decays whether it agrees or not
    assert decoupled([0.1, 0.0])[0] == pytest.approx(1.05 * (1 - 0.05))  # m < 0 < g
    coupled = one_tensor(Cautious(decoupled=False), [1.0, 10.0], name="sgd", lr=0.1, momentum=0.9, weight_decay=0.5)
    assert coupled([-0.1, -7.0]) == pytest.approx([1 - 0.1 * 0.4 * 2 / 3, 10 + 0.1 * 2 * 2 / 3])
    # the decay is part of what must agree: m = 0.36 - 0.1 + decay > 0 > g
    assert coupled([-0.7, 0.0])[0] == pytest.approx(1 - 0.1 * 0.4 * 2 / 3)


def test_random_mask_has_its_density_and_feeds_the_moments() -> None:
    size, density = 200_000, 0.3
    moved, states = [], []
    for method in (RandomMask(density, 7), RandomMask(density, 8), Method()):
        param = torch.nn.Parameter(torch.zeros(size))
        optimizer = CPLOptimizer([param], method=method, name="adam", lr=1.0)
        method.bind(Layout({"w": (size,)}, ((Piece("w", (size,), 0, slice(0, size)),),)))
        for index in range(2):
            before = param.detach().clone()
            param.grad = torch.ones(size)
            optimizer.update_index = index
            optimizer.start(Mode.UPDATE)
            optimizer.step()
            moved.append(param.detach() != before)
        states.append(optimizer.state[param]["exp_avg"])
    for mask in moved[:4]:
        assert float(mask.double().mean()) == pytest.approx(density, abs=0.005)
    pairs = [(0, 1), (0, 2), (1, 3)]  # other update, other seed: independent
    for one, other in pairs:
        assert float((moved[one] & moved[other]).double().mean()) == pytest.approx(density**2, abs=0.005)
    assert torch.equal(states[0], states[2])


QWEN_BLOCK = [f"self_attn.{p}_proj.{kind}" for p in "qkv" for kind in ("weight", "bias")]
QWEN_BLOCK += ["self_attn.o_proj.weight", *(f"mlp.{p}_proj.weight" for p in ("gate", "up", "down"))]
QWEN_BLOCK += ["input_layernorm.weight", "post_attention_layernorm.weight"]
OUTSIDE = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
QWEN = [f"model.layers.{i}.{name}" for i in range(6) for name in QWEN_BLOCK] + OUTSIDE
GPT2_BLOCK = ["ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"]
GPT2 = [f"transformer.h.{i}.{name}.{kind}" for i in range(3) for name in GPT2_BLOCK for kind in ("weight", "bias")]


@pytest.mark.parametrize("seed", range(5))
def test_hft_freezes_half_of_each_category(seed: int) -> None:
    frozen = frozen_parameters(QWEN, seed)
    assert not frozen & set(OUTSIDE)
    feed_forward = []
    for block in range(6):
        mine = [name for name in frozen if f".{block}." in name and name.endswith("weight")]
        assert sum("self_attn" in name for name in mine) == 2
        assert sum("layernorm" in name for name in mine) == 1
        feed_forward.append(sum(".mlp." in name for name in mine))
    assert sorted(feed_forward) == [1, 1, 1, 2, 2, 2]
    for name in QWEN:
        if name.endswith("bias"):
            assert (name in frozen) == (name.replace("bias", "weight") in frozen)
    assert frozen == frozen_parameters(QWEN[::-1], seed)
    assert frozen != frozen_parameters(QWEN, seed + 1)


def test_hft_knows_blocks_of_other_names() -> None:
    frozen = frozen_parameters([*GPT2, "transformer.wte.weight"], 0)
    for block in range(3):
        mine = {name.rpartition(".")[0] for name in frozen if f".h.{block}." in name}
        assert (len(mine), sum("ln_" in name for name in mine)) == (3, 1)
    assert len(frozen) == 3 * 3 * 2
    assert frozen_parameters(["a.0.weight", "b.weight"], 0) == set()


def test_hft_leaves_the_frozen_half_as_it_is() -> None:
    start, pushes, cut = random_values(SHAPES, 0), gradients(), Cut(SHAPES, [TOTAL + 3])
    plain, half = (train(cut, start, pushes, method, **ADAMW) for method in (Method, lambda: HFT(1)))
    frozen = frozen_parameters(SHAPES, 1)
    assert len(frozen) == 2
    for name in SHAPES:
        assert torch.equal(half[name], start[name] if name in frozen else plain[name]), name


def test_hft_tells_its_share() -> None:
    method, cut = HFT(1), Cut(SHAPES, [TOTAL + 3])
    param = torch.nn.Parameter(cut.flats(random_values(SHAPES, 0))[0])
    optimizer = CPLOptimizer([param], method=method)
    method.bind(cut.layout([0]))
    param.grad = torch.zeros_like(param)
    optimizer.start(Mode.UPDATE)
    optimizer.step()
    frozen = sum(torch.Size(SHAPES[name]).numel() for name in frozen_parameters(SHAPES, 1))
    assert optimizer.stats.to_dict()["frozen"] == frozen
    assert method.frozen_share == frozen / TOTAL
    with pytest.raises(LayoutError, match=r"the first is w\.weight"):
        HFT(0).bind(Layout({"w.weight": (2,)}, ((Piece("w.weight", (2,), 0, slice(0, 2)),),)))


def configured(rule: str, **sections: Any) -> Config:
    return Config.model_validate({"model": "toy", "train": {"rule": rule}, **sections})


@pytest.mark.parametrize(
    ("rule", "kind"),
    [("replay", Method), ("random_mask", RandomMask), ("hft", HFT), ("mofo", MoFO), ("cautious", Cautious)],
)
def test_the_rule_names_the_method(rule: str, kind: type[Method]) -> None:
    assert type(build_method(configured(rule))) is kind


@pytest.mark.parametrize("rule", METHODS)
def test_methods_have_the_state_that_their_passes_fill(rule: Rule) -> None:
    kept = build_method(configured(rule)).new_kept(torch.zeros(3))
    assert (kept is not None) == (MASTERED[rule] in ("capture", "start") or rule == "l2sp")


def test_mofo_and_cautious_refuse_optimizers_without_known_momentum() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.momentum=0 has none"):
        build_method(configured("mofo", optimizer={"name": "sgd"}))
    build_method(configured("mofo", optimizer={"name": "sgd", "momentum": 0.9}))
    for method in (MoFO(0.5), Cautious(decoupled=False)):
        with pytest.raises(ConfigError, match=f"{type(method).__name__} needs the moments"):
            WrappedOptimizer([torch.nn.Parameter(torch.zeros(3))], torch.optim.RMSprop, lr=0.1, method=method)


@pytest.mark.parametrize("method", [lambda: RandomMask(0.4, 5), lambda: HFT(1)], ids=["random_mask", "hft"])
def test_foreign_optimizers_are_masked_alike(method: Callable[[], Method]) -> None:
    cut, start = Cut(SHAPES, [TOTAL + 3]), random_values(SHAPES, 0, torch.float64)
    params = [torch.nn.Parameter(cut.flats(start)[0]) for _ in range(2)]
    ours = CPLOptimizer([params[0]], method=method(), name="adam", lr=1e-2)
    foreign = WrappedOptimizer([params[1]], torch.optim.Adam, method=method(), lr=1e-2)
    for optimizer, param in zip((ours, foreign), params, strict=True):
        optimizer.method.bind(cut.layout([0]))
        for index, push in enumerate(gradients(torch.float64)):
            param.grad = cut.flats(push)[0]
            optimizer.update_index = index
            optimizer.start(Mode.UPDATE)
            optimizer.step()
    torch.testing.assert_close(params[0], params[1], rtol=0, atol=1e-12)
    assert ours.stats.to_dict() == foreign.stats.to_dict()
    assert 0 < ours.stats.to_dict()["moved"] < TOTAL
