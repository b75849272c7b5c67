"""Scoring a model whose parameters are partitioned by ZeRO-3 gives the verdicts of the whole model.

Two ranks with unequal numbers of items, lengths and answers: a forward pass too few on one of them would hang.
"""

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from cpl_ray.assessment import Verdict
from cpl_ray.config import Config, PromptConfig
from cpl_ray.encoding import Encoder
from cpl_ray.items import Item
from cpl_ray.predict import Scorer
from tests.distributed.launch import run_workers

pytestmark = pytest.mark.distributed
SHARES = (7, 2)
LENGTH = 200


def build() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=257,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=LENGTH,
            initializer_range=0.3,
        )
    )


def scorer(name: str) -> Scorer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(BPE({letter: index for index, letter in enumerate([*letters, "<eos>"])}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    words = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>")
    encoder = Encoder(
        words, scorer=name, prompt=PromptConfig(), max_length=LENGTH, over_long="reject", append_eos=False
    )
    return Scorer(words, encoder, name=name, batch_size=2, max_new_tokens=10)


def items() -> list[Item]:
    return [
        Item(f"q{i}", "cloze", choices=("yes", "no", "maybe"), answer=i % 3, target="no", cloze="so " * (i + 1) + "is")
        for i in range(sum(SHARES))
    ]


def plain(verdicts: list[Verdict]) -> list[tuple[object, ...]]:
    return [(v.id, v.correct, v.prediction, v.error, list(v.scores)) for v in verdicts]


def score_on_rank() -> dict[str, list[tuple[object, ...]]]:
    import torch.distributed as dist

    from cpl_ray.collectives import Collectives
    from cpl_ray.engine import ZeroEngine

    config = Config.model_validate({"model": "toy", "zero_stage": 3})
    engine = ZeroEngine(build(), config)
    start = SHARES[0] * dist.get_rank()
    mine = items()[start : start + SHARES[dist.get_rank()]]
    comm = Collectives(engine.device)
    results: dict[str, list[tuple[object, ...]]] = {}
    for name in ("choice_loglik", "exact_match", "letter_logit"):
        results[name] = plain(scorer(name).score(engine.module, mine, sync_max=comm.max))
    results["brief"] = plain(scorer("exact_match").score(engine.module, mine, sync_max=comm.max, brief=True))
    # the model still trains after having been scored
    loss = engine.forward(input_ids=torch.arange(6)[None], use_cache=False).logits.float().square().mean()
    engine.backward(loss)
    engine.close()
    return results


def test_verdicts_of_two_zero3_ranks_equal_those_of_the_whole_model() -> None:
    ranks = run_workers(score_on_rank, 2)
    for name in ("choice_loglik", "exact_match", "letter_logit"):
        expected = plain(scorer(name).score(build(), items()))
        found = ranks[0][name] + ranks[1][name]
        assert len(found) == len(expected) == sum(SHARES)
        for (*what, scores), (*reference, reference_scores) in zip(found, expected, strict=True):
            assert what == reference
            assert scores == pytest.approx(reference_scores, abs=1e-4)
        assert all(verdict[3] is None for verdict in found)
    briefly, fully = (ranks[0][name] + ranks[1][name] for name in ("brief", "exact_match"))
    assert [verdict[:2] for verdict in briefly] == [verdict[:2] for verdict in fully]
