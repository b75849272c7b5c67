"""Encoding: equal to lm-evaluation-harness where choices are compared, exact about the answer where it is trained."""

from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from cpl_ray.config import PromptConfig
from cpl_ray.encoding import SCORERS, Encoder
from cpl_ray.errors import ConfigError
from cpl_ray.items import LETTERS, Item, Message, RowError
from cpl_ray.prompts import prompt_fingerprint

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = [
    "Question: What is the capital of France?\nAnswer: Paris",
    "Question: Which of these is a gas?\nOptions:\nA: iron\nB: neon\n\nAnswer with only the letter.",
    "The capital of Norway is Oslo and the capital of Italy is Rome. The answer is neon, the answer is iron.",
] * 5


def make_tokenizer(
    *, bos: bool = False, eos: bool = True, add: str | None = None, metaspace: bool = False, chat: str | None = None
) -> Any:
    """Train a small BPE; `add` puts special tokens around every text, as `<s> $A` does."""
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    core = Tokenizer(models.BPE(unk_token="<s>" if metaspace else None))
    alphabet: list[str] = []
    if metaspace:
        core.pre_tokenizer = pre_tokenizers.Metaspace()
        core.decoder = decoders.Metaspace()
        alphabet = [chr(code) for code in range(33, 127)]
    else:
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(CORPUS, trainer)
    if add is not None:
        core.post_processor = processors.TemplateProcessing(single=add, special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>" if bos else None,
        eos_token="</s>" if eos else None,
        chat_template=chat,
    )


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "adds start": {"bos": True, "add": "<s> $A"},
    "has start, adds none": {"bos": True},
    "adds start and end": {"bos": True, "add": "<s> $A </s>"},
    "metaspace adds start": {"bos": True, "add": "<s> $A", "metaspace": True},
    "no special at all": {"eos": False},
}
TOKENIZERS = {name: make_tokenizer(**options) for name, options in KINDS.items()}
CHAT = make_tokenizer(chat=CHATML)
CHAT_ADDS_START = make_tokenizer(bos=True, add="<s> $A", chat="<s>" + CHATML)

MCQ = Item("q", "multiple_choice", "Which of these is a gas?", ("iron", "neon", "Oslo (the city)"), 1, "neon")
CLOZE = Item("c", "cloze", "What is the capital?", ("Oslo", "Rome"), 0, "Oslo", cloze="The capital of Norway is")
PAIR = Item("p", "completion", prompt="Q: What is\n\tthe capital of Italy?\nA:", target=" Rome\n")
TALK = Item(
    "t",
    "chat",
    messages=(
        Message("system", "Be short."),
        Message("user", "The capital of Norway?"),
        Message("assistant", "Oslo"),
        Message("user", "And the capital of Italy?"),
    ),
    target="Rome",
)


def encoder(tokenizer: Any, scorer: str = "choice_loglik", **options: Any) -> Encoder:
    values = {"max_length": 512, "over_long": "cut", "append_eos": False, "prompt": PromptConfig(), **options}
    return Encoder(tokenizer, scorer=scorer, **values)


@pytest.fixture(scope="module")
def harness() -> Any:
    """Return a function that gives the harness' ids of (context, continuation) pairs for a tokenizer."""
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    from lm_eval.api.instance import Instance

    class Encoding(huggingface.HFLM):  # type: ignore[name-defined, misc]
        """HFLM without a model: what it would score is returned instead."""

        def __init__(self, tokenizer: Any) -> None:
            self.tokenizer = tokenizer
            self.add_bos_token = None
            self.custom_prefix_token_id = None
            self.backend = "causal"
            self.enable_thinking = None

        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> Any:
            return [(tuple(context), tuple(continuation)) for _, context, continuation in requests]

    def encode(tokenizer: Any, pairs: list[tuple[str, str]]) -> Any:
        instances = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
        return Encoding(tokenizer).loglikelihood(instances, disable_tqdm=True)

    return encode


def got(requests: Any) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return [(request.context_ids, request.continuation_ids) for request in requests]


words = st.text("abcdeinorst AR.?\n\té漢", min_size=1, max_size=25)


@pytest.mark.parametrize("name", ["plain", "adds start", "has start, adds none", "metaspace adds start"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(question=words, choices=st.lists(words, min_size=2, max_size=4), start=st.sampled_from(["", "<s>", "</s>"]))
def test_requests_equal_the_harness(harness: Any, name: str, question: str, choices: list[str], start: str) -> None:
    assume(all(choice.strip() for choice in choices))
    item = Item("i", "multiple_choice", start + question, tuple(choices), 0, choices[0])
    for template in (None, "{question}", "{question} \n"):
        context = (
            f"Question: {start + question}\nAnswer:"
            if template is None
            else template.replace("{question}", start + question)
        )
        if not context.strip():
            continue
        pairs = [(context, " " + choice) for choice in choices]
        expected = harness(TOKENIZERS[name], pairs)
        assume(all(before and after for before, after in expected))  # the harness asserts on these
        encode = encoder(TOKENIZERS[name], prompt=PromptConfig(template=template))
        assert got(encode.requests(item)) == expected
        trained = encode.training(item)
        if not context[-1].isspace() and expected[0][0] + expected[0][1] == trained.context_ids + trained.target_ids:
            assert trained.target_ids == expected[0][1]  # what is trained is what is scored


def test_cloze_and_chat_requests_equal_the_harness(harness: Any) -> None:
    tokenizer = TOKENIZERS["adds start"]
    pairs = [(str(CLOZE.cloze), " " + choice) for choice in CLOZE.choices]
    assert got(encoder(tokenizer).requests(CLOZE)) == harness(tokenizer, pairs)
    for tokenizer in (CHAT, CHAT_ADDS_START):
        # with a chat template the harness joins the choices without a space
        turn = [{"role": "user", "content": f"Question: {MCQ.question}\nAnswer:"}]
        text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        expected = harness(tokenizer, [(text, choice) for choice in MCQ.choices])
        encode = encoder(tokenizer, prompt=PromptConfig(chat=True))
        assert encode.context(MCQ) == text
        assert got(encode.requests(MCQ)) == expected


def test_an_added_end_token_never_stands_before_the_answer() -> None:
    with_end, without = TOKENIZERS["adds start and end"], TOKENIZERS["adds start"]
    assert with_end.encode("a")[-1] == with_end.eos_token_id
    for item in (MCQ, CLOZE, PAIR):
        assert encoder(with_end, "exact_match").training(item) == encoder(without, "exact_match").training(item)
    assert encoder(with_end).requests(MCQ) == encoder(without).requests(MCQ)


def test_standard_texts() -> None:
    plain = TOKENIZERS["plain"]
    request = "Answer with only the letter of the correct option."
    options = f"Question: {MCQ.question}\nOptions:\nA: iron\nB: neon\nC: Oslo (the city)\n\n{request}"
    assert encoder(plain, "letter_logit").context(MCQ) == options + "\nAnswer:\n"
    assert (
        encoder(CHAT, "letter_logit").context(MCQ) == f"<|im_start|>user\n{options}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert encoder(CHAT, "choice_loglik").context(MCQ) == f"Question: {MCQ.question}\nAnswer:"
    assert encoder(plain, "exact_match").context(CLOZE) == "The capital of Norway is"
    assert encoder(plain, "letter_logit").context(CLOZE).startswith("Question: What is the capital?\nOptions:\nA: Oslo")
    filled = encoder(CHAT, "letter_logit", prompt=PromptConfig(template="{options}|{question}|{x}"))
    braces = Item("b", "multiple_choice", "{options}{}", ("{question}", "b"), 0, "{question}")
    assert filled.context(braces) == "A: {question}\nB: b|{options}{}|{x}"


def test_letter_targets() -> None:
    for tokenizer in (CHAT, CHAT_ADDS_START, TOKENIZERS["metaspace adds start"]):
        encode = encoder(tokenizer, "letter_logit", append_eos=True)
        letters = [tokenizer.encode(letter, add_special_tokens=False)[-1] for letter in LETTERS]
        assert encode.letter_ids(MCQ) == letters[:3]
        assert encode.training(MCQ).target_ids == (letters[1], tokenizer.eos_token_id)
        (request,) = encode.requests(MCQ)
        assert request.continuation_ids == ()
        assert request.context_ids == encode.training(MCQ).context_ids
        assert request.context_ids == tuple(
            tokenizer.encode(encode.context(MCQ), add_special_tokens=not tokenizer.chat_template)
        )
    assert encoder(CHAT_ADDS_START, "letter_logit").training(MCQ).context_ids.count(0) == 1  # one start token


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60)
@given(prompt=words, completion=words)
def test_completions_are_trained_exactly_as_given(name: str, prompt: str, completion: str) -> None:
    assume(prompt.strip() and completion.strip())
    tokenizer = TOKENIZERS[name]
    encoded = encoder(tokenizer, "exact_match").training(Item("i", "completion", prompt=prompt, target=completion))
    context, target = tokenizer.decode(encoded.context_ids), tokenizer.decode(encoded.target_ids)
    if name == "metaspace adds start":  # this kind of tokenizer itself folds white space and has unknown characters
        return
    assert (context + target).removeprefix("<s>") == prompt + completion
    # white space before the answer may move to it when one token holds both, nothing else may
    assert target.endswith(completion)
    assert not target.removesuffix(completion).strip()
    assert tokenizer.eos_token_id not in encoded.target_ids


def test_completion_and_chat_rows() -> None:
    plain = TOKENIZERS["plain"]
    encoded = encoder(plain, "exact_match").training(PAIR)
    assert plain.decode(encoded.target_ids) == " Rome\n"
    assert encoded.context_ids + encoded.target_ids == tuple(plain.encode(str(PAIR.prompt) + PAIR.target))
    wrapped = encoder(CHAT, "exact_match", prompt=PromptConfig(chat=True))
    assert wrapped.context(PAIR) == f"<|im_start|>user\n{PAIR.prompt}<|im_end|>\n<|im_start|>assistant\n"
    assert CHAT.decode(wrapped.training(PAIR).target_ids) == " Rome\n"
    talk = encoder(CHAT, "exact_match", append_eos=True)
    assert talk.context(TALK) == (
        "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nThe capital of Norway?<|im_end|>\n"
        "<|im_start|>assistant\nOslo<|im_end|>\n<|im_start|>user\nAnd the capital of Italy?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    trained = talk.training(TALK)
    assert CHAT.decode(trained.target_ids) == "Rome</s>"
    assert trained.context_ids == tuple(CHAT.encode(talk.context(TALK), add_special_tokens=False))


def test_merges_over_the_border_keep_both_sides() -> None:
    """A token that holds the prompt's end and the answer's start is not used: the answer stays whole."""
    core = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2, "</s>": 3}, [("a", "b")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")
    encoded = encoder(tokenizer, "exact_match").training(Item("i", "completion", prompt="a", target="b"))
    assert (encoded.context_ids, encoded.target_ids) == ((0,), (1,))


def test_settings_that_do_not_fit_the_tokenizer() -> None:
    plain = TOKENIZERS["plain"]
    with pytest.raises(ConfigError, match="no chat template"):
        encoder(plain, prompt=PromptConfig(chat=True))
    with pytest.raises(ConfigError, match="no end token"):
        encoder(TOKENIZERS["no special at all"], append_eos=True)
    with pytest.raises(ConfigError, match="scorer 'auto'"):
        encoder(plain, "auto")
    with pytest.raises(ConfigError, match="'t' is a chat"):
        encoder(plain, "exact_match").training(TALK)
    unknown = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"?": 0}, unk_token="?")))
    with pytest.raises(ConfigError, match="letter 'B'"):
        encoder(unknown, "letter_logit").letter_ids(MCQ)


def test_items_a_scorer_cannot_use() -> None:
    for scorer in SCORERS[:3]:
        with pytest.raises(RowError, match="'p' has none"):
            encoder(CHAT, scorer).requests(PAIR)
        assert CHAT.decode(encoder(CHAT, scorer).training(PAIR).target_ids) == " Rome\n"
    with pytest.raises(RowError, match="no choices"):
        encoder(CHAT, "letter_logit").training(Item("c", "cloze", target="Oslo", cloze="The capital is"))
    strict = make_tokenizer(chat="{{ raise_exception('system role not supported') }}")
    with pytest.raises(RowError, match="system role not supported"):
        encoder(strict, "exact_match").training(TALK)


def test_the_fingerprint_changes_with_what_is_asked() -> None:
    plain = TOKENIZERS["plain"]
    prints = {
        prompt_fingerprint("letter_logit", PromptConfig(), plain),
        prompt_fingerprint("letter_logit", PromptConfig(), CHAT),
        prompt_fingerprint("letter_logit", PromptConfig(), CHAT_ADDS_START),
        prompt_fingerprint("choice_loglik", PromptConfig(), CHAT),
        prompt_fingerprint("choice_loglik", PromptConfig(chat=True), CHAT),
        prompt_fingerprint("choice_loglik", PromptConfig(template="Q: {question}"), CHAT),
    }
    assert len(prints) == 6
    same = prompt_fingerprint("choice_loglik", PromptConfig(), plain)
    assert same == prompt_fingerprint("choice_loglik", PromptConfig(), CHAT)  # the template is not used
    assert len(same) == 64
