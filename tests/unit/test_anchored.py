"""L2-SP and EWC: values by hand, what clipping does not touch, and what a checkpoint must bring back."""

import pytest
import torch

from cpl_ray.config import Config
from cpl_ray.methods.anchored import EWC, L2SP
from cpl_ray.methods.base import Method
from cpl_ray.methods.build import build_method
from cpl_ray.optimizer import CPLOptimizer, Mode


def do(optimizer: CPLOptimizer, mode: Mode, gradient: list[float]) -> list[float]:
    """Make one step of a mode and return theta."""
    param = optimizer.param_groups[0]["params"][0]
    param.grad = torch.tensor(gradient, dtype=param.dtype)
    optimizer.start(mode)
    optimizer.step()
    return param.detach().tolist()


def optimizer_of(method: Method, theta: list[float], **options: float) -> CPLOptimizer:
    param = torch.nn.Parameter(torch.tensor(theta, dtype=torch.float64))
    optimizer = CPLOptimizer([param], name="sgd", lr=0.1, method=method, whole_gradients=True, **options)  # type: ignore[arg-type]
    optimizer.init_state()
    return optimizer


def test_l2sp_by_hand() -> None:
    optimizer = optimizer_of(L2SP(2.0), [1.0, -1.0])
    assert do(optimizer, Mode.UPDATE, [1.0, 0.0]) == pytest.approx([0.9, -1.0])  # at theta_0: no penalty
    assert do(optimizer, Mode.UPDATE, [0.0, 0.5]) == pytest.approx([0.92, -1.05])
    assert do(optimizer, Mode.UPDATE, [0.0, 0.0]) == pytest.approx([0.936, -1.04])


def test_the_penalty_is_added_after_clipping_and_before_coupled_decay() -> None:
    optimizer = optimizer_of(L2SP(2.0), [1.0], max_grad_norm=1.0, weight_decay=0.5)
    first = do(optimizer, Mode.UPDATE, [100.0])
    assert first == pytest.approx([1 - 0.1 * (1 + 0.5)], abs=1e-6)
    assert do(optimizer, Mode.UPDATE, [100.0]) == pytest.approx([0.85 - 0.1 * (1 + 2 * -0.15 + 0.5 * 0.85)], abs=1e-6)


def test_ewc_by_hand() -> None:
    method = EWC(3.0)
    method.captures_per_refresh = 2
    optimizer = optimizer_of(method, [1.0, 1.0])
    do(optimizer, Mode.CAPTURE, [1.0, 2.0])
    assert not optimizer.has_mastered
    do(optimizer, Mode.CAPTURE, [3.0, 0.0])
    assert optimizer.has_mastered
    kept = optimizer.mastered_tensors()
    assert kept["0.fisher"].tolist() == [5.0, 2.0]
    assert kept["0.start"].tolist() == [1.0, 1.0]
    assert do(optimizer, Mode.UPDATE, [1.0, -1.0]) == pytest.approx([0.9, 1.1])
    assert do(optimizer, Mode.UPDATE, [0.0, 0.0]) == pytest.approx([0.9 + 0.1 * 3 * 5 * 0.1, 1.1 - 0.1 * 3 * 2 * 0.1])


@pytest.mark.parametrize("kind", [L2SP, EWC])
def test_no_strength_is_plain_fine_tuning(kind: type[L2SP | EWC]) -> None:
    method = kind(0.0)
    optimizer, plain = optimizer_of(method, [1.0, 2.0]), optimizer_of(Method(), [1.0, 2.0])
    for gradient in ([1.0, -1.0], [0.3, 0.0], [-5.0, 2.0]):
        assert do(optimizer, Mode.UPDATE, gradient) == do(plain, Mode.UPDATE, gradient)


@pytest.mark.parametrize("kind", [L2SP, EWC])
def test_a_resumed_run_goes_on_alike(kind: type[L2SP | EWC]) -> None:
    whole = optimizer_of(kind(2.0), [1.0, 2.0])
    if kind is EWC:
        do(whole, Mode.CAPTURE, [1.0, -2.0])
    theta = do(whole, Mode.UPDATE, [1.0, 1.0])
    saved = {key: tensor.clone() for key, tensor in whole.mastered_tensors().items()}
    resumed = optimizer_of(kind(2.0), theta)  # starts where the checkpoint's parameters are, not at theta_0
    resumed.load_mastered_tensors(saved)
    assert resumed.has_mastered == whole.has_mastered == (kind is EWC)
    for gradient in ([0.0, 1.0], [2.0, -1.0]):
        assert do(resumed, Mode.UPDATE, gradient) == do(whole, Mode.UPDATE, gradient)
    with pytest.raises(ValueError, match="another partition"):
        optimizer_of(kind(2.0), [1.0]).load_mastered_tensors(saved)


def test_l2sp_captures_nothing() -> None:
    with pytest.raises(ValueError, match="no mastered gradient"):
        do(optimizer_of(L2SP(1.0), [1.0]), Mode.CAPTURE, [1.0])


@pytest.mark.parametrize(
    ("rule", "given", "used"), [("l2sp", None, 0.01), ("ewc", None, 1000.0), ("l2sp", 3.0, 3.0), ("ewc", 0.0, 0.0)]
)
def test_default_strengths(rule: str, given: float | None, used: float) -> None:
    config = Config.model_validate({"model": "toy", "train": {"rule": rule}, "method": {"strength": given}})
    method = build_method(config)
    optimizer = optimizer_of(method, [0.0])
    if rule == "ewc":
        do(optimizer, Mode.CAPTURE, [1.0])  # F = 1
    do(optimizer, Mode.UPDATE, [1.0])  # theta = -0.1
    assert do(optimizer, Mode.UPDATE, [0.0]) == pytest.approx([-0.1 + 0.1 * used * 0.1])
