"""Layers by parameter name, layouts of whole parameters, and what is said when DeepSpeed is not as it was."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from cpl_ray.collectives import Collectives
from cpl_ray.errors import LayoutError
from cpl_ray.layer_shares import LayerShares
from cpl_ray.layout import Layout, Piece, layer_names, whole_layout
from cpl_ray.mastered import FullState, SignState
from cpl_ray.zero_layout import read_layout

LLAMA = {
    "model.embed_tokens.weight": "embed_tokens",
    "model.layers.0.self_attn.q_proj.weight": "layer.00",
    "model.layers.0.input_layernorm.weight": "layer.00",
    "model.layers.11.mlp.experts.3.w1.weight": "layer.11",
    "model.norm.weight": "norm",
    "lm_head.weight": "lm_head",
}
GPT2 = {
    "transformer.wte.weight": "wte",
    "transformer.wpe.weight": "wpe",
    "transformer.h.0.ln_1.bias": "layer.00",
    "transformer.h.3.attn.c_attn.weight": "layer.03",
    "transformer.ln_f.weight": "ln_f",
    "transformer.ln_f.bias": "ln_f",
}
LARGE = {"model.layers.7.mlp.weight": "layer.007", "model.layers.125.mlp.weight": "layer.125", "scale": "scale"}
TWO_STACKS = {
    "vision.blocks.0.weight": "vision.blocks.00",
    "vision.norm.weight": "vision.norm",
    "text.layers.0.weight": "layer.00",
    "text.layers.1.weight": "layer.01",
    "text.norm.weight": "text.norm",
    "score.0.weight": "score.00",
}


@pytest.mark.parametrize(
    "expected", [LLAMA, GPT2, LARGE, TWO_STACKS, {}], ids=["llama", "gpt2", "large", "two", "none"]
)
def test_layers_by_name(expected: dict[str, str]) -> None:
    assert layer_names(list(expected)) == expected


def test_whole_parameters_in_the_optimizers_order() -> None:
    model = nn.Linear(3, 2)
    layout = whole_layout(model.named_parameters(), [model.bias, model.weight])
    assert layout.shapes == {"weight": (2, 3), "bias": (2,)}
    assert layout.flats == ((Piece("bias", (2,), 0, slice(0, 2)),), (Piece("weight", (2, 3), 0, slice(0, 6)),))
    layout.check([2, 6])
    with pytest.raises(LayoutError, match=r"no parameters of the model, of shapes \[\(5,\)\]"):
        whole_layout(model.named_parameters(), [model.bias, torch.zeros(5)])


@pytest.mark.parametrize(
    ("pieces", "size", "message"),
    [
        ([(0, 0, 4)], 3, "does not fit"),
        ([(0, 0, 4), (4, 3, 6)], 9, "4 of 9 elements are taken"),
        ([(5, 0, 2)], 9, "6 are its own"),
    ],
)
def test_impossible_layouts_are_refused(pieces: list[tuple[int, int, int]], size: int, message: str) -> None:
    flat = tuple(Piece("w", (2, 3), start, slice(first, last)) for start, first, last in pieces)
    with pytest.raises(LayoutError, match=message):
        Layout({"w": (2, 3)}, (flat,)).check([size])
    with pytest.raises(LayoutError, match="holds 2 flat tensors, the layout describes 1"):
        Layout({"w": (2, 3)}, (flat,)).check([size, 1])


def test_missing_elements_are_named_by_layer() -> None:
    layout = Layout({"norm.weight": (6,)}, ((Piece("norm.weight", (6,), 0, slice(0, 5)),),))
    with pytest.raises(LayoutError, match="hold 5 elements of norm; expected 6"):
        LayerShares(layout, 1, Collectives(torch.device("cpu")))


@pytest.mark.parametrize(
    ("stage", "attribute"),
    [(1, "_hp_mapping"), (2, "_hp_mapping"), (3, "fp32_partitioned_groups_flat"), (0, "no parameters")],
)
def test_a_changed_deepspeed_is_said(stage: int, attribute: str) -> None:
    with pytest.raises(LayoutError, match=attribute) as said:
        read_layout(nn.Linear(2, 2), SimpleNamespace(), stage, [torch.zeros(6)])
    assert stage == 0 or f"ZeRO stage {stage}" in str(said.value)


def test_a_master_outside_the_optimizers_tensors_is_said() -> None:
    model: Any = nn.Linear(3, 1, bias=False)
    address = SimpleNamespace(start=0, numel=3)
    mapping = SimpleNamespace(lp_fragment_address=address, hp_fragment_address=address, hp_fragment=torch.zeros(3))
    model.weight._hp_mapping = mapping
    with pytest.raises(LayoutError, match="lies in 0 of the optimizer's 1 tensors"):
        read_layout(model, SimpleNamespace(), 2, [torch.zeros(4)])
    mapping.hp_fragment = flat = torch.zeros(4)
    assert read_layout(model, SimpleNamespace(), 2, [flat]).flats == ((Piece("weight", (1, 3), 0, slice(0, 3)),),)


@pytest.mark.parametrize("kind", [SignState, FullState])
def test_marks_change_neither_sign_nor_class(kind: type[SignState]) -> None:
    gradient = torch.tensor([-2.0, 0.0, 3.0]).repeat(4)
    before = torch.tensor([False] * 6 + [True] * 6)
    after = torch.tensor([False] * 3 + [True] * 3 + [False] * 3 + [True] * 3)
    whole = slice(0, 12)
    state = kind(gradient)
    state.capture(gradient)
    state.classify(whole, before)
    assert state.count(whole).tolist() == [6, 0]
    assert int(state.classify(whole, after, mark_flips=True)) == 6
    assert state.count(whole).tolist() == [6, 6]
    assert state.count(slice(3, 7)).tolist() == [3, 4]
    assert torch.equal(state.sign(whole), torch.sign(gradient).to(torch.int8))
    state.capture(-gradient)  # takes the marks away, keeps the classes
    assert state.count(whole).tolist() == [6, 0]
    state.classify(whole, after, mark_flips=True)
    assert state.count(whole).tolist() == [6, 0]
    state.classify(whole, before, mark_flips=True)
    state.classify(whole, before)
    assert state.count(whole).tolist() == [6, 0]
    assert torch.equal(state.sign(whole), torch.sign(-gradient).to(torch.int8))
