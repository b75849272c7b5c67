"""The likelihood scorers give what lm-evaluation-harness gives, item by item, on the same model and items."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerFast, Qwen2Config
from transformers import Qwen2ForCausalLM as Qwen2

from cpl_ray.assessment import Verdict
from cpl_ray.config import PromptConfig
from cpl_ray.encoding import Encoder
from cpl_ray.items import Item
from cpl_ray.predict import Scorer

TEXT = [
    "Question: what is the capital of France?\nAnswer: Paris is the capital, and the river is the Seine.",
    "Question: how many legs has a spider?\nAnswer: eight legs, not six and not four.",
    "The boiling point of water is 100 degrees; that of ethanol is 78.37 degrees.",
]


def tokenizer(*, start_token: bool) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer without pad token, with or without a start token before every text."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>"]
    inner.train_from_iterator(
        TEXT * 3,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if start_token:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
        return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")


def qwen2(vocab_size: int) -> PreTrainedModel:
    return Qwen2(
        Qwen2Config(
            vocab_size=vocab_size,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            initializer_range=0.3,
        )
    )


def gpt2(vocab_size: int) -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocab_size,
            n_positions=256,
            n_embd=32,
            n_layer=2,
            n_head=4,
            initializer_range=0.3,
            eos_token_id=1,
        )
    )


def items() -> list[Item]:
    """Return items of many shapes: short and long, one-token choices, non-ASCII, trailing space, shared prefixes."""
    rows: list[tuple[str, tuple[str, ...]]] = [
        ("what is the capital of France?", ("Paris", "the Seine", "spider", "London on the Thames")),
        ("how many legs has a spider?", ("8", "6", "4")),
        ("how many legs has a spider? ", ("eight", "six", "four", "eight and a half")),
        ("is it?", ("yes", "no")),
        ("Wie heißt die größte Stadt Österreichs – und was ist 水?", ("Wien", "Graz", "Köln 🏙️", "水")),
        ("long " * 20 + "?", ("a", "aa", "aaa", "aaaa", "b b b b b b b b b b b b")),
        ("x", ("Paris is the capital", "Paris", "Paris is", " leading space")),
    ]
    questions = [
        Item(f"mc{i}", "multiple_choice", question, choices, i % len(choices), choices[i % len(choices)])
        for i, (question, choices) in enumerate(rows)
    ]
    clozes = [
        Item("cloze", "cloze", "", ("100", "78.37", "zero"), 1, "78.37", cloze="The boiling point of ethanol is"),
        Item("number", "cloze", "", ("a b", "c"), 0, "a b", cloze="one\n two  three:"),
    ]
    return questions + clozes


def contexts(item: Item) -> str:
    """Return the prompt, written here again so that the encoder is checked too."""
    return item.cloze if item.cloze is not None else f"Question: {item.question}\nAnswer:"


def harness(model: PreTrainedModel, words: PreTrainedTokenizerFast, rows: Sequence[Item]) -> list[np.ndarray]:
    """Return the log-likelihoods that lm-evaluation-harness gives, one array of choices per item."""
    lm = HFLM(pretrained=model, tokenizer=words, backend="causal", device="cpu", batch_size=3, max_length=256)
    pairs = [(contexts(item), " " + choice) for item in rows for choice in item.choices]
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=index) for index, pair in enumerate(pairs)
    ]
    values = iter([value for value, _ in lm.loglikelihood(requests, disable_tqdm=True)])
    return [np.array([next(values) for _ in item.choices]) for item in rows]


@pytest.mark.parametrize("architecture", [qwen2, gpt2])
@pytest.mark.parametrize("start_token", [False, True])
def test_accuracies_and_likelihoods_agree_item_by_item(architecture: type, start_token: bool) -> None:
    torch.manual_seed(3)
    words = tokenizer(start_token=start_token)
    model = architecture(len(words)).eval()
    rows = items()
    expected = harness(model, tokenizer(start_token=start_token), rows)

    verdicts: dict[str, list[Verdict]] = {}
    for name in ("choice_loglik", "choice_loglik_norm"):
        encoder = Encoder(
            words, scorer=name, prompt=PromptConfig(), max_length=256, over_long="reject", append_eos=False
        )
        verdicts[name] = Scorer(words, encoder, name=name, batch_size=5).score(model, rows)

    for index, (item, values) in enumerate(zip(rows, expected, strict=True)):
        plain, norm = verdicts["choice_loglik"][index], verdicts["choice_loglik_norm"][index]
        assert plain.error is None
        assert norm.error is None
        np.testing.assert_allclose(plain.scores, values, atol=1e-4, rtol=0)
        # acc and acc_norm as lm_eval.api.task.ConfigurableTask.process_results has them
        lengths = np.array([float(len(choice)) for choice in item.choices])
        assert plain.correct == (int(np.argmax(values)) == item.answer), item.id
        assert norm.correct == (int(np.argmax(values / lengths)) == item.answer), item.id
        assert plain.prediction == item.choices[int(np.argmax(values))]
        assert norm.prediction == item.choices[int(np.argmax(values / lengths))]
        np.testing.assert_allclose(norm.scores, values / lengths, atol=1e-4, rtol=0)


def test_the_items_tell_the_two_scorers_apart() -> None:
    torch.manual_seed(3)
    words = tokenizer(start_token=False)
    values = harness(qwen2(len(words)).eval(), words, items())
    lengths = [np.array([float(len(choice)) for choice in item.choices]) for item in items()]
    assert any(np.argmax(v) != np.argmax(v / n) for v, n in zip(values, lengths, strict=True))
