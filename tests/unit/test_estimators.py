"""Averages and votes of the mastered gradient in 8 bits: they follow the exact ones, stall nowhere, and round-trip."""

import pytest
import torch
from torch import Tensor

from cpl_ray.config import Config
from cpl_ray.errors import ConfigError
from cpl_ray.estimators import BLOCK, CHUNK, AverageState, VoteState
from cpl_ray.mastered import SignState
from cpl_ray.methods.build import build_method, mastered_state
from cpl_ray.methods.collaborative import Collaborative
from cpl_ray.notices import notices
from cpl_ray.optimizer import CPLOptimizer, Mode

SIZE = 40 * BLOCK + 17
WHOLE = slice(0, SIZE)


def noisy_gradients(count: int, *, signal: float, seed: int = 0) -> list[Tensor]:
    """Gradients of elements whose scales span many octaves within a block: mean `signal` scales, noise of one."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.randn(SIZE, generator=generator).mul(2.0).exp()
    mean = torch.randn(SIZE, generator=generator) * signal
    gradients = [scale * (mean + torch.randn(SIZE, generator=generator)) for _ in range(count)]
    for gradient in gradients:
        gradient[: BLOCK // 2] = 0  # rows that no mastered item touches
    return gradients


def exact_average(gradients: list[Tensor], share: float) -> Tensor:
    average = gradients[0].double()
    for gradient in gradients[1:]:
        average = share * average + (1 - share) * gradient.double()
    return average


def linear_average(gradients: list[Tensor], share: float) -> Tensor:
    """The other coding: sign and 8 bits of equal steps below the same block maxima."""

    def rounded(average: Tensor) -> Tensor:
        blocks = torch.nn.functional.pad(average, (0, -SIZE % BLOCK)).view(-1, BLOCK)
        steps = blocks.abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / 255
        return (blocks.div(steps).round() * steps).view(-1)[:SIZE]

    average = rounded(gradients[0])
    for gradient in gradients[1:]:
        average = rounded(share * average + (1 - share) * gradient)
    return average


def agreement(sign: Tensor, exact: Tensor) -> float:
    moving = exact != 0
    return float((sign[moving] == torch.sign(exact[moving])).double().mean())


@pytest.mark.parametrize("share", [0.6, 0.8, 0.9])
@pytest.mark.parametrize(("signal", "at_least"), [(0.0, 0.99), (0.5, 0.995)])
def test_8_bit_average_keeps_the_exact_sign_after_50_refreshes(share: float, signal: float, at_least: float) -> None:
    gradients = noisy_gradients(50, signal=signal)
    state = AverageState(gradients[0], share=share)
    for gradient in gradients:
        state.capture(gradient)
    exact = exact_average(gradients, share)
    ours, linear = agreement(state.sign(WHOLE), exact), agreement(torch.sign(linear_average(gradients, share)), exact)
    assert ours > at_least
    assert linear < ours - 0.1  # logarithmic levels are worth it
    assert not state.sign(slice(0, BLOCK // 2)).any()  # zeros stay zero
    assert bool(torch.isfinite(state.average(WHOLE)).all())


def test_small_magnitudes_keep_their_sign_and_their_size() -> None:
    gradient = torch.zeros(BLOCK)
    gradient[:4] = torch.tensor([1.0, -(2.0**-20), 2.0**-40, -1e-45])
    state = AverageState(gradient, share=0.9)
    state.capture(gradient)
    assert state.sign(slice(0, 5)).tolist() == [1, -1, 1, -1, 0]
    stored = state.average(slice(0, BLOCK))
    assert stored[0] == 1.0
    assert stored[1] == pytest.approx(-(2.0**-20), rel=0.03)
    assert torch.equal(stored[4:], torch.zeros(BLOCK - 4))


@pytest.mark.parametrize("share", [0.5, 0.8, 0.9, 0.97])
def test_average_never_stalls(share: float) -> None:
    ones = torch.ones(BLOCK)
    pinned = torch.cat([torch.full((1,), 100.0), torch.zeros(BLOCK - 1)])  # holds the block's maximum where it is
    state = AverageState(ones, share=share)
    state.capture(ones + pinned)
    for _ in range(200):
        state.capture(pinned * 1.01)
    assert float(state.average(slice(0, BLOCK))[1:].abs().max()) < 0.05  # from 1, with no gradient since
    for _ in range(2):
        state.capture(-ones + pinned)
    assert state.sign(slice(1, 3)).tolist() == [-1, -1]


def test_average_of_nothing_old_is_the_fresh_sign() -> None:
    fresh, average = SignState(torch.zeros(SIZE)), AverageState(torch.zeros(SIZE), share=0.0)
    for gradient in noisy_gradients(3, signal=0.1):
        fresh.capture(gradient)
        average.capture(gradient)
        assert torch.equal(fresh.planes, average.planes)


def test_average_depends_on_partitioning_by_rounding_only() -> None:
    gradients = noisy_gradients(30, signal=0.2)
    sizes = [5 * BLOCK + 3, SIZE - 5 * BLOCK - 3]
    whole = AverageState(gradients[0], share=0.8)
    parts = [AverageState(part, share=0.8) for part in gradients[0].split(sizes)]
    for gradient in gradients:
        whole.capture(gradient)
        for state, part in zip(parts, gradient.split(sizes), strict=True):
            state.capture(part)
    cut = torch.cat([state.sign(slice(0, size)) for state, size in zip(parts, sizes, strict=True)])
    assert float((cut == whole.sign(WHOLE)).double().mean()) > 0.99


def test_chunks_are_whole_blocks() -> None:
    assert CHUNK % BLOCK == 0
    size = CHUNK + BLOCK + 5
    gradient = torch.randn(size, generator=torch.Generator().manual_seed(0))
    state = AverageState(gradient, share=0.8)
    state.capture(gradient)
    state.capture(gradient)
    torch.testing.assert_close(state.average(slice(0, size)), gradient, rtol=0.05, atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.8, 0.9, 0.99])
def test_votes_arrive_and_never_get_stuck(share: float) -> None:
    up, nothing = torch.ones(3), torch.zeros(3)
    state = VoteState(up, share=share, majority=1.0)
    state.capture(up)
    assert state.sign(slice(0, 3)).tolist() == [1, 1, 1]  # the first refresh already votes
    for _ in range(130):
        state.capture(up)
        assert state.sign(slice(0, 3)).tolist() == [1, 1, 1]  # unanimous all the way
    assert state.tally.tolist() == [127] * 3
    for _ in range(130):
        state.capture(nothing)
    assert state.tally.tolist() == [0] * 3


def test_vote_by_hand_abstains_without_a_majority() -> None:
    state = VoteState(torch.zeros(4), share=0.5, majority=0.5)
    votes = ([1.0, 1.0, 1.0, 0.0], [1.0, 0.0, -1.0, 0.0], [1.0, 0.0, 1.0, -1.0])
    seen = []
    for vote in votes:
        state.capture(torch.tensor(vote))
        seen.append((state.tally.tolist(), state.sign(slice(0, 4)).tolist()))
    assert seen[0] == ([64, 64, 64, 0], [1, 1, 1, 0])
    assert seen[1] == ([96, 32, -32, 0], [1, 0, 0, 0])  # a unanimous vote would be at 96
    assert seen[2] == ([112, 16, 48, -64], [1, 0, 0, -1])  # and now at 112


def test_vote_follows_the_leaky_mean_of_signs_and_commutes_with_partitioning() -> None:
    gradients = noisy_gradients(40, signal=0.5)
    whole = VoteState(gradients[0], share=0.8, majority=0.3)
    parts = [VoteState(part, share=0.8, majority=0.3) for part in gradients[0].split(1000)]
    exact = torch.zeros(SIZE)
    for gradient in gradients:
        whole.capture(gradient)
        for state, part in zip(parts, gradient.split(1000), strict=True):
            state.capture(part)
        exact = 0.8 * exact + 0.2 * torch.sign(gradient)
    assert float((whole.tally.float() / 127 - exact).abs().max()) < 0.04
    everything = slice(None)
    assert torch.equal(torch.cat([state.sign(everything) for state in parts]), whole.sign(everything))


@pytest.mark.parametrize("name", ["ema8", "vote"])
def test_masked_by_the_sign_in_use_and_restored_bit_for_bit(name: str) -> None:
    config = Config.model_validate({"model": "toy", "train": {"mastered_state": name}})
    gradients = noisy_gradients(12, signal=0.1)
    optimizers = []
    for _ in range(2):
        param = torch.nn.Parameter(torch.zeros(SIZE))
        optimizer = CPLOptimizer([param], name="sgd", lr=1e-3, method=build_method(config))
        optimizer.init_state()
        optimizers.append((optimizer, param))

    def step(index: int, mode: Mode, gradient: Tensor) -> dict[str, float]:
        optimizer, param = optimizers[index]
        param.grad = gradient.clone()
        optimizer.start(mode)
        optimizer.step()
        return optimizer.stats.to_dict()

    for number, gradient in enumerate(gradients):
        step(0, Mode.CAPTURE, gradient)
        used = optimizers[0][0].kept_states[0]
        assert isinstance(used, SignState)
        stats = step(0, Mode.UPDATE, gradients[number - 1])
        opposed = torch.sign(gradients[number - 1]) * used.sign(WHOLE) < 0
        assert (stats["conflict"], stats["moved_against"]) == (int(opposed.sum()), 0)
    saved = {key: tensor.clone() for key, tensor in optimizers[0][0].mastered_tensors().items()}
    optimizers[1][0].load_mastered_tensors(saved)
    optimizers[1][1].data.copy_(optimizers[0][1].data)
    for index in (0, 1):
        step(index, Mode.CAPTURE, gradients[3])
        step(index, Mode.UPDATE, gradients[5])
    for key, tensor in optimizers[0][0].mastered_tensors().items():
        assert torch.equal(tensor, optimizers[1][0].mastered_tensors()[key]), key
    assert torch.equal(optimizers[0][1], optimizers[1][1])


def test_settings_reach_the_state_or_are_refused_or_said() -> None:
    def config(**train: object) -> Config:
        return Config.model_validate({"model": "toy", "train": train})

    with pytest.raises(ConfigError, match=r"mastered_average=0\.99 is too slow"):
        build_method(config(mastered_state="ema8", mastered_average=0.99))
    vote = mastered_state(config(mastered_state="vote", vote_majority=1.0, mastered_average=0.5))(torch.zeros(1))
    for sign in (1.0, -1.0):
        vote.capture(torch.tensor([sign]))
    assert vote.sign(slice(0, 1)).tolist() == [0]
    assert isinstance(build_method(config(mastered_state="ema8")), Collaborative)
    said = notices(config(mastered_average=0.5, vote_majority=0.6))
    assert [text.split(" ")[0] for text in said] == ["train.mastered_average", "train.vote_majority"]
    assert [text.split(" ")[0] for text in notices(config(mastered_state="ema8", vote_majority=0.6))] == [
        "train.vote_majority"
    ]
    assert notices(config(mastered_state="vote", mastered_average=0.5, vote_majority=0.6)) == []
