"""Scores over shared prompts equal those of a row per choice, and models that cannot share are found out."""

import logging
import math
import random
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from cpl_ray.forward import alone
from cpl_ray.likelihood import Ask, read_scores
from cpl_ray.shared_prefix import deviation, longest_shareable, read_tree, tolerance
from cpl_ray.token_tree import MIN_TOKENS, SEQUENCES_PER_ROW, TokenTree, pack

VOCAB = 97
CPU = torch.device("cpu")
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def build(name: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    if name == "gpt2":
        small = GPT2Config(
            vocab_size=VOCAB, n_positions=128, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3, **settings
        )
        return GPT2LMHeadModel(small).eval()
    kinds: dict[str, Any] = {
        "llama": (LlamaForCausalLM, LlamaConfig),
        "qwen2": (Qwen2ForCausalLM, Qwen2Config),
        "mistral": (MistralForCausalLM, MistralConfig),
    }
    kind, config = kinds[name]
    return kind(config(**SHAPE | settings)).eval()


def continued(item: int, context: tuple[int, ...], *choices: tuple[int, ...]) -> list[Ask]:
    return [Ask(item, (context + choice)[:-1], len(context) - 1, choice, letters=False) for choice in choices]


def asks() -> list[Ask]:
    """Return asks of many shapes: numbers and lengths of choices, contexts, letters; none has the last token."""
    draw = random.Random(0)

    def ids(num: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, VOCAB - 1) for _ in range(num))

    prompt = ids(11)
    found = [
        *continued(0, prompt, ids(3), ids(1), ids(7), ids(2)),
        *continued(1, ids(40), (5,), (6,), (7,)),  # one token each: one input
        *continued(2, ids(6), (5, 6, 7), (5, 6, 8), (5, 6), (5, 9, 9, 9)),  # begin alike
        *continued(3, ids(4), (8, 9), (8, 9), (9, 8)),  # equal choices
        *continued(4, prompt[:5], ids(4), ids(4)),  # begins as item 0 does
        *continued(5, ids(9), ids(30), ids(1)),
    ]
    # other tokens before a choice, as where a tokenizer merges over the border
    found += continued(6, (3, 4, 5, 6), ids(2)) + continued(6, (3, 4, 7), ids(3))
    letters = ids(13)
    found.append(Ask(7, letters, 12, (3, 4, 5, 6), letters=True))
    return [*found, *continued(8, (3,), ids(2), ids(2))]


def scores(model: nn.Module, batch_size: int, *, share: bool) -> dict[int, list[float]]:
    with torch.no_grad():
        return read_scores(model, asks(), batch_size=batch_size, sync_max=alone, share_prompts=share)


class Passes:
    """Counts the forward passes of a model and the tokens in them."""

    def __init__(self, model: nn.Module) -> None:
        self.shapes: list[tuple[int, ...]] = []
        model.register_forward_pre_hook(
            lambda _module, _args, kwargs: self.shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
        )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["qwen2", "llama", "gpt2", "mistral"])
def test_scores_equal_those_of_a_row_per_choice(name: str, attention: str) -> None:
    model = build(name, attn_implementation=attention)
    expected = scores(model, 1, share=False)
    passes = Passes(model)
    for batch_size in (2, 3, 7, 64):
        found = scores(model, batch_size, share=True)
        assert found.keys() == expected.keys()
        for item, values in expected.items():
            assert found[item] == pytest.approx(values, abs=2e-4), f"item {item} at batch size {batch_size}"
    assert any(rows == 1 and columns > 60 for rows, columns in passes.shapes)  # prompts were shared
    assert found[3][0] == found[3][1]  # ties stay ties


def test_scores_are_sums_of_log_probabilities_given_everything_before() -> None:
    """An oracle without batches: one token after the other, each from a pass of its own."""
    model = build("llama").double()
    found = scores(model, 64, share=True)
    values: dict[int, list[float]] = {}
    with torch.no_grad():
        for ask in asks():
            if ask.letters:
                values[ask.item] = model(torch.tensor([ask.inputs])).logits[0, -1, list(ask.targets)].tolist()
                continue
            total = 0.0
            for step, target in enumerate(ask.targets):
                logits = model(torch.tensor([ask.inputs[: ask.start + 1 + step]])).logits[0, -1]
                total += float(logits[target] - logits.exp().sum().log())
            values.setdefault(ask.item, []).append(total)
    for item, expected in values.items():
        assert found[item] == pytest.approx(expected, abs=1e-4)


def test_a_prompt_is_computed_once_and_only_needed_positions_reach_the_head() -> None:
    model = build("llama")
    prompt, choices = tuple(range(3, 53)), [(60, 61, 62), (60, 63), (64, 65, 66, 67)]
    some = continued(0, prompt, *choices)
    sizes: list[int] = []
    with torch.no_grad():
        read_scores(model, some, batch_size=4, sync_max=alone)  # checks the model once
        passes = Passes(model)
        model.lm_head.register_forward_pre_hook(lambda _module, args: sizes.append(args[0].shape[-2]))
        read_scores(model, some, batch_size=4, sync_max=alone)
    # the last token of a choice is never an input, and 60 is common to two: after the prompt 60 61 and 64 65 66
    assert passes.shapes == [(1, 50 + 5)]
    assert sizes == [1 + 5]


def test_a_bad_item_does_not_spoil_those_it_shares_a_pass_with() -> None:
    model = build("qwen2")
    expected = scores(model, 64, share=True)
    bad = continued(99, (3, VOCAB - 1, 5), (7, 8), (9,))
    model.get_input_embeddings().weight.data[VOCAB - 1] = math.nan
    with torch.no_grad():
        found = read_scores(model, [*asks(), *bad], batch_size=64, sync_max=alone)
    assert all(math.isnan(value) for value in found.pop(99))
    for item, values in expected.items():
        assert found[item] == pytest.approx(values, abs=2e-4)


class Forgetful(LlamaForCausalLM):
    """A model that claims to take positions and masks, and leaves the given ones unused."""

    def forward(self, input_ids: Any, attention_mask: Any = None, position_ids: Any = None, **settings: Any) -> Any:
        if attention_mask is not None and attention_mask.ndim == 4:
            attention_mask = None
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **settings)


class Strict(LlamaForCausalLM):
    """A model that takes masks of padding only."""

    def forward(self, input_ids: Any, attention_mask: Any = None, position_ids: Any = None, **settings: Any) -> Any:
        if attention_mask is not None and attention_mask.ndim != 2:
            raise ValueError(f"attention_mask has {attention_mask.ndim} dimensions, not 2")
        return super().forward(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **settings
        )


@pytest.mark.parametrize(
    ("kind", "reason"), [(Forgetful, "logits deviate by"), (Strict, "ValueError: attention_mask has 4 dimensions")]
)
def test_models_that_are_wrong_with_shared_prompts_are_read_row_by_row(
    kind: Any, reason: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the modules of models of transformers are recognised by what they build masks with
    monkeypatch.setitem(globals(), "create_causal_mask", None)
    torch.manual_seed(0)
    model = kind(LlamaConfig(**SHAPE)).eval()
    expected = scores(model, 64, share=False)
    with caplog.at_level(logging.WARNING):
        assert scores(model, 64, share=True) == expected
        checked = Passes(model)
        assert scores(model, 64, share=True) == expected
    assert len(checked.shapes) == 1  # not tried again
    assert len(caplog.records) == 1
    assert reason in caplog.text


def test_ranks_agree_that_one_of_them_found_a_difference() -> None:
    """This rank finds no fault; another does, and both go row by row."""
    model = build("llama")
    sent: list[int] = []

    def other_rank(number: int) -> int:
        sent.append(number)
        return 2 if len(sent) == 3 else number  # trees, what is known, what was found

    with torch.no_grad():
        read_scores(model, asks(), batch_size=64, sync_max=other_rank)
        assert sent[2] == 0
        after = Passes(model)
        read_scores(model, asks(), batch_size=64, sync_max=alone)
    assert [rows for rows, _ in after.shapes] != [1] * len(after.shapes)


def test_what_models_tell_about_themselves() -> None:
    assert min(longest_shareable(build(name)) for name in ("llama", "gpt2", "qwen2")) > 10**6
    # within its window attention is over everything
    assert longest_shareable(build("mistral", sliding_window=32)) == 32
    assert longest_shareable(build("llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0})) == 0
    own: dict[str, Any] = {"vocab_size": VOCAB, "hidden_size": 32, "num_attention_heads": 4}
    assert longest_shareable(BloomForCausalLM(BloomConfig(n_layer=1, n_head=4, hidden_size=32, vocab_size=VOCAB))) == 0
    assert longest_shareable(FalconForCausalLM(FalconConfig(num_hidden_layers=1, alibi=True, **own))) == 0
    assert longest_shareable(nn.Linear(2, 2)) == 0
    linear = build("qwen2")
    linear.config.layer_types = ["full_attention", "linear_attention"]
    assert longest_shareable(linear) == 0


def test_sequences_beyond_the_window_get_the_windows_numbers() -> None:
    model = build("mistral", sliding_window=12)
    expected = scores(model, 1, share=False)
    unlimited = build("mistral", sliding_window=None)
    assert scores(unlimited, 1, share=False)[1] != pytest.approx(expected[1], abs=1e-2)  # the window matters
    for item, values in scores(model, 64, share=True).items():
        assert values == pytest.approx(expected[item], abs=2e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_deviation_tells_rounding_from_wrong_positions(dtype: torch.dtype) -> None:
    model = build("llama").to(dtype)
    tree = TokenTree()
    sequences = [(*range(3, 20), *ends) for ends in ((30, 31, 32), (30, 33), (40, 41))]
    for ids in sequences:
        tree.add(ids)
    firsts = dict.fromkeys(sequences, 16)
    with torch.no_grad():
        assert deviation(model, tree, firsts, CPU) < tolerance(model)
        tree.depths = list(range(len(tree.tokens)))
        assert deviation(model, tree, firsts, CPU) > 2 * tolerance(model)
        logits = read_tree(model, tree, [0, 5], CPU)
        assert logits.shape == (2, VOCAB)
        assert logits.dtype == torch.float32


def test_trees_hold_every_sequence_once_within_their_bounds() -> None:
    draw = random.Random(3)
    for _ in range(8):
        groups: list[list[tuple[int, ...]]] = []
        seen: set[tuple[int, ...]] = set()
        for _ in range(draw.randint(1, 12)):
            context = tuple(draw.choices(range(4), k=draw.randint(1, 200)))
            group = {context + tuple(draw.choices(range(4), k=draw.randint(1, 5))) for _ in range(draw.randint(1, 6))}
            groups.append(sorted(group - seen, key=lambda _: draw.random()))
            seen |= group
        most = draw.randint(1, 9)
        trees = list(pack(groups, most))
        held = [ids for tree in trees for ids in tree.paths]
        assert sorted(held) == sorted(seen)
        for tree in trees:
            longest = max(map(len, tree.paths))
            assert 1 <= len(tree.paths) <= SEQUENCES_PER_ROW * most
            assert len(tree.tokens) <= min(most * longest, max(MIN_TOKENS, 2 * longest))
            assert len(tree.tokens) == len({ids[: end + 1] for ids in tree.paths for end in range(len(ids))})
            for ids, path in tree.paths.items():
                assert [tree.tokens[node] for node in path] == list(ids)
                assert [tree.depths[node] for node in path] == list(range(len(ids)))
                assert [tree.parents[node] for node in path] == [-1, *path[:-1]]
                assert path == sorted(path)


def test_what_groups_have_in_common_stands_once() -> None:
    system = tuple(range(1000))
    groups = [[(*system, item, choice) for choice in range(4)] for item in range(2000, 2010)]
    trees = list(pack(groups, 4))
    assert [len(tree.paths) for tree in trees] == [16, 16, 8]
    assert [len(tree.tokens) for tree in trees] == [1000 + 4 * 5, 1000 + 4 * 5, 1000 + 2 * 5]


def test_what_has_little_in_common_costs_no_more_tokens_than_rows() -> None:
    groups = [[(item, *([choice] * 30)) for choice in range(4)] for item in range(100, 103)]
    assert [len(tree.paths) for tree in pack(groups, 2)] == [2] * 6
