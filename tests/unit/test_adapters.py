"""Adapters: what they compute, what moves, and that ordinary weights come out; peft and a full run are the oracles."""

import inspect
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from cpl_ray.adapters import adapt, merged
from cpl_ray.config import Config
from cpl_ray.config_methods import AdapterConfig
from cpl_ray.errors import ConfigError, ResumeError
from cpl_ray.notices import notices
from cpl_ray.orthogonal import OrthogonalLinear, num_frozen
from cpl_ray.resume import check_same_job
from cpl_ray.step import takes_positions
from tests.oracle.toy import VOCAB, toy_model

SEVEN = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
IDS = torch.randint(1, VOCAB, (3, 8), generator=torch.Generator().manual_seed(0))
BOTH = [AdapterConfig(name="lora", rank=3, dropout=0.0), AdapterConfig(name="osft", frozen_share=0.6)]


def name_of(adapter: AdapterConfig) -> str:
    return adapter.name


def build(dtype: torch.dtype = torch.float32, *, tied: bool = False) -> PreTrainedModel:
    model = toy_model(dtype, tied=tied).eval()
    assert isinstance(model, PreTrainedModel)
    return model


def trainable(model: nn.Module) -> dict[str, Tensor]:
    return {name: param for name, param in model.named_parameters() if param.requires_grad}


def loss_of(model: nn.Module) -> Tensor:
    loss: Tensor = model(input_ids=IDS, labels=IDS).loss
    return loss


def shaken(adapter: AdapterConfig, dtype: torch.dtype = torch.float32, **how: bool) -> PreTrainedModel:
    """Return an adapted model whose adapter is far from its start."""
    model = build(dtype, **how)
    adapt(model, adapter)
    torch.manual_seed(1)
    for param in trainable(model).values():
        nn.init.normal_(param, std=0.2)
    return model


@pytest.mark.parametrize("adapter", BOTH, ids=name_of)
def test_at_first_nothing_changes_and_only_the_adapter_may_move(adapter: AdapterConfig) -> None:
    model = build()
    before, kind = model(input_ids=IDS).logits, type(model)
    adapt(model, adapter)
    assert torch.equal(model(input_ids=IDS).logits, before)
    assert type(model) is kind
    assert takes_positions(model)
    assert "logits_to_keep" in inspect.signature(model.forward).parameters
    ends = (".delta",) if adapter.name == "osft" else (".lora_A.default.weight", ".lora_B.default.weight")
    assert {name.removesuffix(end).rpartition(".")[2] for end in ends for name in trainable(model)} >= SEVEN
    assert all(name.endswith(ends) for name in trainable(model))
    assert len(trainable(model)) == 2 * len(SEVEN) * len(ends)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("adapter", BOTH, ids=name_of)
def test_merged_weights_compute_the_same_in_the_plain_model(adapter: AdapterConfig, tied: bool) -> None:
    model = shaken(adapter, torch.float64, tied=tied)
    given = model.state_dict()
    names = set(given)
    plain = build(torch.float64, tied=tied)
    start = plain(input_ids=IDS).logits
    plain.load_state_dict(merged(model, adapter, given), strict=True)
    live = model(input_ids=IDS).logits
    assert set(given) == names, "the caller's dictionary was altered"
    assert (start - live).abs().max() > 0.1
    torch.testing.assert_close(plain(input_ids=IDS).logits, live, rtol=0, atol=1e-12)


def test_lora_merges_as_peft_does() -> None:
    adapter = AdapterConfig(name="lora", rank=3, alpha=7.0, dropout=0.0, targets=["q_proj", "down_proj"])
    model = shaken(adapter)
    settings = LoraConfig(r=3, lora_alpha=7, target_modules=["q_proj", "down_proj"])
    theirs: Any = get_peft_model(build(), settings)
    theirs.load_state_dict({f"base_model.model.{name}": tensor for name, tensor in model.state_dict().items()})
    expected = theirs.merge_and_unload().state_dict()
    found = merged(model, adapter, model.state_dict())
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-6)


def test_lora_starts_from_the_seed_alone_and_leaves_random_state_as_it_was() -> None:
    starts: list[Tensor] = []
    for seed in (0, 0, 1):
        model = build()
        torch.manual_seed(len(starts))
        state = torch.get_rng_state()
        adapt(model, BOTH[0], seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        starts.append(model.state_dict()["model.layers.0.mlp.up_proj.lora_A.default.weight"])
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_lora_drops_out_in_training_only() -> None:
    model = build()
    adapt(model, AdapterConfig(name="lora", dropout=0.5))
    for name, param in trainable(model).items():
        if "lora_B" in name:
            nn.init.normal_(param)
    assert torch.equal(model(input_ids=IDS).logits, model(input_ids=IDS).logits)
    model.train()
    assert not torch.equal(model(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_gradient_is_that_of_the_whole_weight_projected_on_both_sides() -> None:
    plain, model = build(torch.float64), build(torch.float64)
    adapt(model, AdapterConfig(name="osft", frozen_share=0.6))
    loss_of(plain).backward()
    loss_of(model).backward()
    whole = dict(plain.named_parameters())
    for name, delta in trainable(model).items():
        weight = whole[f"{name.removesuffix('.delta')}.weight"]
        k = num_frozen(weight.shape, 0.6)
        u, _, vh = torch.linalg.svd(weight.detach())
        left = torch.eye(len(u), dtype=torch.float64) - u[:, :k] @ u[:, :k].T
        right = torch.eye(len(vh), dtype=torch.float64) - vh[:k].T @ vh[:k]
        assert weight.grad is not None
        torch.testing.assert_close(delta.grad, left @ weight.grad @ right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.75, 0.99])
@pytest.mark.parametrize("shape", [(12, 12), (9, 20), (20, 9)])
def test_leading_directions_stay_whatever_the_optimizer_does(shape: tuple[int, int], share: float) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(shape[1], shape[0]).double()
    start = linear.weight.detach().clone()
    k = num_frozen(shape, share)
    u, s, vh = torch.linalg.svd(start, full_matrices=False)
    layer = OrthogonalLinear(linear, share)
    assert k == 0 or (layer.left is not None and layer.left.shape[1] <= max(k, shape[0] - k))
    optimizer = torch.optim.AdamW([layer.delta], lr=0.01, weight_decay=0.1)
    inputs, goals = torch.randn(30, shape[1]).double(), torch.randn(30, shape[0]).double()
    for _ in range(20):
        optimizer.zero_grad()
        (layer(inputs) - goals).square().mean().backward()
        optimizer.step()
    weight = layer.merged(layer.weight, layer.delta.detach(), layer.left, layer.right)
    change = weight - start
    assert change.abs().max() > 1e-3
    for fixed in (u[:, :k].T @ change, change @ vh[:k].T):
        torch.testing.assert_close(fixed, torch.zeros_like(fixed), rtol=0, atol=1e-12)
    # still singular triplets of the new weight, with their old values
    torch.testing.assert_close(weight @ vh[:k].T, u[:, :k] * s[:k], rtol=0, atol=1e-12)
    torch.testing.assert_close(weight.T @ u[:, :k], vh[:k].T * s[:k], rtol=0, atol=1e-12)


def test_frozen_share_zero_is_full_fine_tuning_of_those_matrices() -> None:
    adapter = AdapterConfig(name="osft", frozen_share=0.0)
    plain, model = build(torch.float64), build(torch.float64)
    adapt(model, adapter)
    plain.requires_grad_(False)
    for name, param in plain.named_parameters():
        param.requires_grad_(name.split(".")[-2] in SEVEN)
    for trained in (plain, model):
        optimizer = torch.optim.SGD(trainable(trained).values(), lr=0.1, momentum=0.9)
        for _ in range(5):
            optimizer.zero_grad()
            loss_of(trained).backward()
            optimizer.step()
    found = merged(model, adapter, model.state_dict())
    assert len(trainable(plain)) == len(trainable(model)) == 14
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-13)
    assert not torch.equal(found["model.layers.0.mlp.up_proj.weight"], build().model.layers[0].mlp.up_proj.weight)


@pytest.mark.parametrize("adapter", BOTH, ids=name_of)
def test_bfloat16_model_has_a_bfloat16_adapter_and_folds_it_with_one_rounding(adapter: AdapterConfig) -> None:
    model = shaken(adapter, torch.bfloat16)
    state = model.state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}
    found = merged(model, adapter, state)
    wide = merged(model, adapter, {name: tensor.double() for name, tensor in state.items()})
    for name, tensor in found.items():
        assert torch.equal(tensor, wide[name].float().bfloat16()), name


@pytest.mark.parametrize("adapter", BOTH, ids=name_of)
def test_recomputed_activations_give_the_same_gradients(adapter: AdapterConfig) -> None:
    gradients = []
    for recompute in (False, True):
        model = shaken(adapter, torch.float64).train()
        if recompute:
            model.gradient_checkpointing_enable()
        loss_of(model).backward()
        gradients.append([param.grad for param in trainable(model).values()])
    for one, other in zip(*gradients, strict=True):
        assert one is not None
        assert other is not None
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "share", "k"), [((100, 200), 0.29, 29), ((10, 7), 0.5, 3), ((8, 8), 0.99, 7), ((4, 9), 0.0, 0)]
)
def test_fixed_directions_are_the_share_rounded_down(shape: tuple[int, int], share: float, k: int) -> None:
    assert num_frozen(shape, share) == k


@pytest.mark.parametrize("name", ["lora", "osft"])
def test_targets_are_last_names_and_others_are_refused(name: Any) -> None:
    model = build()
    adapt(model, AdapterConfig(name=name, targets=["v_proj", "lm_head"]))
    assert {param.split(".self_attn.")[-1].split(".")[0] for param in trainable(model)} == {"v_proj", "lm_head"}
    with pytest.raises(ConfigError, match=r"adapter\.targets: c_attn is no linear layer of Llama.* it has down_proj,"):
        adapt(build(), AdapterConfig(name=name, targets=["c_attn", "v_proj"]))
    with pytest.raises(ConfigError, match=r"lm_head shares its weight"):
        adapt(build(tied=True), AdapterConfig(name=name, targets=["lm_head"]))
    convolutions = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=9))
    with pytest.raises(ConfigError, match="has no linear layer to adapt"):
        adapt(convolutions, AdapterConfig(name=name))


def test_none_leaves_the_model_alone() -> None:
    model = build()
    adapt(model, AdapterConfig())
    assert len(trainable(model)) == len(list(model.parameters()))
    state = model.state_dict()
    assert merged(model, AdapterConfig(), state) == state


@pytest.mark.parametrize(
    ("name", "silent"),
    [
        ("none", {"targets", "rank", "alpha", "dropout", "frozen_share"}),
        ("lora", {"frozen_share"}),
        ("osft", {"rank", "alpha", "dropout"}),
    ],
)
def test_keys_without_effect_are_said(name: str, silent: set[str]) -> None:
    keys = {"rank": 4, "alpha": 1.0, "dropout": 0.0, "targets": ["q"], "frozen_share": 0.1}
    config = Config.model_validate({"model": "m", "adapter": {"name": name, **keys}})
    said = {line.split()[0] for line in notices(config)}
    assert {key.removeprefix("adapter.") for key in said if key.startswith("adapter.")} == silent


def test_a_run_is_not_resumed_with_another_adapter() -> None:
    saved, asked = (Config.model_validate({"model": "m", "adapter": {"name": "lora", "rank": rank}}) for rank in (4, 8))
    check_same_job(saved, saved)
    with pytest.raises(ResumeError, match=r"adapter\.rank was 4, now 8"):
        check_same_job(saved, asked)


@pytest.mark.parametrize("key", ["frozen_share", "dropout"])
def test_a_share_of_one_leaves_nothing_to_train_and_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=rf"{key}\n.*less than 1"):
        AdapterConfig.model_validate({key: 1.0})
