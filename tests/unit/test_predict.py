"""Scorers on tiny models: right values, independence of company, errors that stay with their item, equal forwards."""

import itertools
import math
import random
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from cpl_ray.assessment import Verdict
from cpl_ray.config import PromptConfig
from cpl_ray.encoding import Encoder
from cpl_ray.generate import greedy
from cpl_ray.items import Item
from cpl_ray.predict import Scorer

SCORERS = ("letter_logit", "choice_loglik", "choice_loglik_norm", "exact_match", "token_f1")
LENGTH = 320


def tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """Return a byte tokenizer (256 tokens and "<eos>"), without pad token unless one is given."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(BPE({letter: index for index, letter in enumerate([*letters, "<eos>"])}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", **special)


def build(architecture: str = "qwen2", seed: int = 0) -> Any:
    torch.manual_seed(seed)
    wide: dict[str, Any] = {"vocab_size": 257, "initializer_range": 0.3, "bos_token_id": 256, "eos_token_id": 256}
    if architecture == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_positions=LENGTH, n_embd=32, n_layer=2, n_head=4, **wide)).eval()
    if architecture == "bloom":  # neither position_ids nor a limit of positions
        return BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=2, n_head=4, **wide)).eval()
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    return Qwen2ForCausalLM(Qwen2Config(num_key_value_heads=2, max_position_embeddings=LENGTH, **shape, **wide)).eval()


def scorer(name: str, *, batch_size: int = 4, words: Any = None, **settings: Any) -> Scorer:
    words = words or tokenizer()
    encoder = Encoder(
        words,
        scorer=name,
        prompt=PromptConfig(),
        max_length=LENGTH,
        over_long="reject",
        append_eos=settings.pop("append_eos", False),
    )
    return Scorer(words, encoder, name=name, batch_size=batch_size, max_new_tokens=18, **settings)


def questions(num: int = 9) -> list[Item]:
    generator = random.Random(1)
    items = []
    for index in range(num):
        options = tuple("".join(generator.choices("abc é", k=generator.randint(1, 7))) + str(i) for i in range(4))
        question = "".join(generator.choices("what is ", k=generator.randint(1, 90)))
        items.append(Item(f"q{index}", "multiple_choice", question, options, index % 4, options[index % 4]))
    return items


def same(one: Sequence[Verdict], other: Sequence[Verdict]) -> None:
    assert [(v.id, v.correct, v.prediction, v.error) for v in one] == [
        (v.id, v.correct, v.prediction, v.error) for v in other
    ]
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)


@pytest.mark.parametrize("name", SCORERS)
@pytest.mark.parametrize("architecture", ["qwen2", "gpt2", "bloom"])
def test_verdicts_do_not_depend_on_batch_size_order_or_company(architecture: str, name: str) -> None:
    model, items = build(architecture), questions()
    alone = [scorer(name).score(model, [item])[0] for item in items]
    assert all(verdict.error is None for verdict in alone)
    for batch_size in (1, 3, 64):
        same(scorer(name, batch_size=batch_size).score(model, items), alone)
    shuffled = random.Random(0).sample(range(len(items)), len(items))
    same(scorer(name).score(model, [items[i] for i in shuffled]), [alone[i] for i in shuffled])


def test_letter_logits_are_those_of_the_last_prompt_position() -> None:
    model, item, words = build(), questions()[3], tokenizer()
    asking = scorer("letter_logit")
    verdict = asking.score(model, [item])[0]
    ids = words.encode(asking.encoder.context(item))
    logits = model(torch.tensor([ids])).logits[0, -1]
    letters = [words.encode(letter)[-1] for letter in "ABCD"]
    np.testing.assert_allclose(verdict.scores, logits[letters].tolist(), atol=1e-5)
    assert verdict.prediction == "ABCD"[int(logits[letters].argmax())]
    assert verdict.margin == pytest.approx(verdict.scores[3] - max(verdict.scores[:3]))


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2", "bloom"])
def test_greedy_equals_generate_of_transformers(architecture: str) -> None:
    model, words = build(architecture, seed=2), tokenizer()
    contexts = [words.encode(text) for text in ("x", "what is it?", "a much longer question " * 4, "Bé")]
    reference = []
    for ids in contexts:
        out = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=12, pad_token_id=256)
        reference.append([token for token in out[0, len(ids) :].tolist() if token != 256])
    ours = greedy(
        model,
        contexts,
        max_new=[12] * 4,
        stop=frozenset({256}),
        max_positions=LENGTH,
        device=torch.device("cpu"),
    )
    assert [row.ids for row in ours] == reference
    assert len({tuple(ids) for ids in reference}) > 1


def test_greedy_stops_at_the_end_token_and_at_the_models_limit() -> None:
    model = build("gpt2", seed=2)
    contexts = [[1] * (LENGTH - 2), [1, 2, 3]]
    keywords: dict[str, Any] = {"max_positions": LENGTH, "device": torch.device("cpu")}
    free = greedy(model, contexts, max_new=[9, 9], stop=frozenset(), **keywords)
    assert [len(row.ids) for row in free] == [3, 9]
    end = free[1].ids[4]
    stopped = greedy(model, contexts, max_new=[9, 9], stop=frozenset({end}), **keywords)
    assert stopped[1].ids == free[1].ids[: free[1].ids.index(end)]


class Recite(nn.Module):
    """A language model that always continues one token by a fixed other one; it knows no cache and no positions."""

    def __init__(self, text: str, words: PreTrainedTokenizerFast) -> None:
        super().__init__()
        ids = [*words.encode(text), 256]
        self.embedding = nn.Embedding(257, 257)
        self.config = Qwen2Config(max_position_embeddings=LENGTH)
        self.generation_config = SimpleNamespace(eos_token_id=[256])
        table = torch.zeros(257, 257)
        for before, after in itertools.pairwise(ids):
            table[before, after] = 1.0
        self.embedding.weight.data = table

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding

    def forward(
        self, input_ids: torch.Tensor, attention_mask: Any = None, past_key_values: Any = None, use_cache: bool = False
    ) -> CausalLMOutputWithPast:
        return CausalLMOutputWithPast(logits=self.embedding(input_ids))


@pytest.mark.parametrize(
    ("recited", "target", "append_eos", "correct", "prediction"),
    [
        (": Rome", "Rome", False, True, "Rome"),
        (": Rome", "Rome", True, True, "Rome"),
        (": Rom.x", "Rom", False, True, "Rom.x"),
        (": Rom.x", "Rom", True, False, "Rom.x"),
        (": Rom\nx", "Rom", False, True, "Rom"),
        (": Roman", "Roma", False, False, "Roman"),
        (": Rom", "Rome", False, False, "Rom"),
    ],
)
def test_exact_match(recited: str, target: str, append_eos: bool, correct: bool, prediction: str) -> None:
    words = tokenizer()
    item = Item("q", "cloze", target=target, cloze="The city:")
    for brief in (False, True):
        asking = scorer("exact_match", words=words, append_eos=append_eos)
        verdict = asking.score(Recite(recited, words), [item], brief=brief)[0]
        assert verdict.error is None
        assert verdict.correct is correct
        if not brief:
            assert verdict.prediction == prediction
        assert math.isnan(verdict.margin)


def test_answer_longer_than_may_be_generated_is_an_error_not_a_wrong_answer() -> None:
    item = Item("q", "cloze", target="a very, very long answer", cloze="The city:")
    verdict = scorer("exact_match").score(build(), [item])[0]
    assert verdict.error is not None
    assert "assess.max_new_tokens 18" in verdict.error


@pytest.mark.parametrize("name", SCORERS)
def test_a_bad_item_gets_an_error_and_disturbs_no_other(name: str) -> None:
    model, items = build(), questions()
    model.get_input_embeddings().weight.data[ord("~") - ord("!")] = math.nan  # the byte tokenizer's "~"
    good = scorer(name).score(model, items)
    nan = Item("nan", "multiple_choice", "what ~ is", ("a", "b"), 0, "a")
    long = Item("long", "multiple_choice", "what " * LENGTH, ("a", "b"), 0, "a")
    mixed = scorer(name).score(model, [nan, *items, long])
    same(mixed[1:-1], good)
    assert mixed[0].error == "non-finite scores"
    assert mixed[-1].error is not None
    assert "tokens" in mixed[-1].error
    assert not mixed[0].correct
    assert not mixed[-1].correct


@pytest.mark.parametrize("name", SCORERS)
def test_tokens_the_model_does_not_have_are_an_error(name: str) -> None:
    words = tokenizer(pad_token="<pad>")  # id 257, one more than the model has
    assert words.pad_token_id == 257
    items = [*questions(5), Item("odd", "multiple_choice", "is <pad> it", ("a", "b"), 0, "a")]
    verdicts = scorer(name, words=words).score(build(), items)
    assert [verdict.error for verdict in verdicts[:5]] == [None] * 5
    assert verdicts[5].error == "token id 257 is outside the model's vocabulary of 257"


@pytest.mark.parametrize("name", SCORERS)
def test_model_state_is_restored(name: str) -> None:
    model = build().train()
    frozen = model.model.layers[0].eval()
    scorer(name).score(model, questions(2))
    assert model.training
    assert not frozen.training
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_answers_must_survive_other_option_orders() -> None:
    words = tokenizer()

    class LikesA(Recite):
        def forward(self, *args: Any, **kwargs: Any) -> CausalLMOutputWithPast:
            output: Any = super().forward(*args, **kwargs)
            output.logits[..., words.encode("A")[0]] += 5.0
            return output

    item = Item("q", "multiple_choice", "which?", ("yes", "no", "both"), 0, "yes")
    plain = scorer("letter_logit", words=words).score(LikesA("x", words), [item])[0]
    asked_again = scorer("letter_logit", words=words, permutations=1).score(LikesA("x", words), [item])[0]
    assert plain.correct
    assert not asked_again.correct
    assert asked_again.prediction == "A"
    assert asked_again.margin < 0 < plain.margin


@pytest.mark.parametrize("name", SCORERS)
@pytest.mark.parametrize("shares", [(9, 2), (0, 5), (3, 3)])
def test_all_ranks_run_the_same_number_of_forwards(name: str, shares: tuple[int, int]) -> None:
    """Two threads play two ranks; a collective that only one of them enters would hang until the barrier breaks."""
    barrier, sent, counts = threading.Barrier(2, timeout=60), [0, 0], [0, 0]
    results: list[list[Verdict]] = [[], []]

    def count(index: int) -> None:
        counts[index] += 1

    models = [build(seed=2), build(seed=2)]
    for index, model in enumerate(models):
        model.register_forward_hook(lambda *_, index=index: count(index))

    def rank(index: int) -> None:
        def sync_max(number: int) -> int:
            sent[index] = number
            barrier.wait()
            largest = max(sent)
            barrier.wait()
            return largest

        results[index] = scorer(name, batch_size=2).score(
            models[index], questions(9)[: shares[index]], sync_max=sync_max
        )

    threads = [threading.Thread(target=rank, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts[0] == counts[1] > 0
    for index, share in enumerate(shares):
        same(results[index], scorer(name).score(build(seed=2), questions(9)[:share]))


def test_no_items_give_no_verdicts() -> None:
    for name in SCORERS:
        assert scorer(name).score(build(), []) == []
