"""Foreign optimizers under the rule: equal to ours, never against g_M, refused where they cannot work."""

import pytest
import torch

from cpl_ray.errors import ConfigError
from cpl_ray.optimizer import CPLOptimizer, Mode
from cpl_ray.wrapped import ELEMENTWISE, REFUSED, WrappedOptimizer, load_optimizer_class

SIZE = 500


def train(optimizer: CPLOptimizer, param: torch.nn.Parameter, steps: int = 4) -> float:
    """Capture and update with seeded gradients; return the number of values that moved against g_M."""
    generator = torch.Generator().manual_seed(3)
    against = 0.0
    for _ in range(steps):
        for mode in (Mode.CAPTURE, Mode.UPDATE):
            param.grad = torch.randn(SIZE, generator=generator).to(param.dtype)
            optimizer.start(mode)
            optimizer.step()
        against += optimizer.stats.to_dict()["moved_against"]
    return against


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_nothing_moves_against_the_mastered_gradient(name: str) -> None:
    torch.manual_seed(0)
    param = torch.nn.Parameter(torch.randn(SIZE))
    before = param.detach().clone()
    optimizer = WrappedOptimizer([param], load_optimizer_class(f"torch.optim.{name}"), lr=1e-2)
    assert train(optimizer, param) == 0
    moved = (param != before).float().mean()
    assert 0.3 < moved <= 1.0


@pytest.mark.parametrize(
    ("cls", "ours"),
    [
        ("SGD", {"name": "sgd"}),
        ("Adam", {"name": "adam"}),
        ("Adam", {"name": "adam", "weight_decay": 0.1}),
    ],
)
def test_equals_our_own_step(cls: str, ours: dict[str, object]) -> None:
    torch.manual_seed(0)
    start = torch.randn(SIZE, dtype=torch.float64)
    a, b = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    decay = float(ours.get("weight_decay", 0.0))  # type: ignore[arg-type]
    train(CPLOptimizer([a], lr=1e-2, **ours), a)  # type: ignore[arg-type]
    train(WrappedOptimizer([b], load_optimizer_class(f"torch.optim.{cls}"), lr=1e-2, weight_decay=decay), b)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_foreign_defaults_stay_foreign() -> None:
    param = torch.nn.Parameter(torch.zeros(3))
    optimizer = WrappedOptimizer([param], torch.optim.Adagrad, lr=0.1)
    assert optimizer.param_groups[0]["eps"] == 1e-10


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        load_optimizer_class(f"torch.optim.{name}")


@pytest.mark.parametrize("name", ["torch.optim.Nonsense", "nowhere.Adam", "torch.nn.Linear"])
def test_unusable_names(name: str) -> None:
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        load_optimizer_class(name)


def test_wrong_options_are_named() -> None:
    param = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(ConfigError, match="nonsense"):
        WrappedOptimizer([param], torch.optim.RMSprop, lr=0.1, options={"nonsense": 1})
