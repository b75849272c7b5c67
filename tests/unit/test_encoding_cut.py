"""Over-long items: the cut takes from the question only, takes as little as it can, and the result fits."""

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from cpl_ray.config import PromptConfig
from cpl_ray.encoding import GENERATING, SCORERS, Encoder
from cpl_ray.items import Item, Message, RowError

CHATML = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TAIL = "<|end|><|assistant|>"


def make_tokenizer(chat: str | None, *, start: bool) -> Any:
    """Return a tokenizer of bytes and a few merges, with or without a start token before every text."""
    special = ["<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    merges = [("o", "n"), ("i", "r"), ("e", "on"), ("n", "eon"), ("Ġ", "a"), ("Ġa", "n")]
    vocabulary = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(left + right for left, right in merges)]
    core = Tokenizer(models.BPE({token: number for number, token in enumerate(vocabulary)}, merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(special)
    if start:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>" if start else None, eos_token="</s>", chat_template=chat
    )


TOKENIZERS = {
    "plain": make_tokenizer(None, start=True),
    "chat": make_tokenizer(CHATML, start=False),
    "chat with start": make_tokenizer("<s>" + CHATML, start=True),
}
MCQ = Item("q", "multiple_choice", "Which of these is a gas?", ("iron", "neon", "Oslo (the city)"), 1, "neon")
CLOZE = Item("c", "cloze", "What is the capital?", ("Oslo", "Rome"), 0, "Oslo", cloze="The capital of Norway is")
PAIR = Item("p", "completion", prompt="Q: What is\n\tthe capital of Italy?\nA:", target=" Rome\n")
TALK = Item(
    "t",
    "chat",
    messages=(
        Message("system", "Be short."),
        Message("user", "Norway?"),
        Message("assistant", "Oslo"),
        Message("user", "And Italy?"),
    ),
    target="Rome",
)


def encoder(tokenizer: Any, scorer: str = "exact_match", **options: Any) -> Encoder:
    values = {"max_length": 100_000, "over_long": "cut", "append_eos": False, "prompt": PromptConfig(), **options}
    return Encoder(tokenizer, scorer=scorer, **values)


def lengthened(item: Item, text: str) -> Item:
    """Put text before what an item asks."""
    first, *others = item.messages[1:] or (Message("user", ""),)
    return Item(
        item.id,
        item.kind,
        text + item.question,
        item.choices,
        item.answer,
        item.target,
        cloze=text + (item.cloze or ""),
        prompt=text + (item.prompt or ""),
        messages=(*item.messages[:1], Message("user", text + first.content), *others),
    )


def longest(encode: Encoder, item: Item) -> int:
    """Return the tokens of the longest sequence of an item."""
    trained = encode.training(item)
    requests = encode.requests(item)
    lengths = [len(request.context_ids) + len(request.continuation_ids) for request in requests]
    return max(len(trained.context_ids) + len(trained.target_ids), *lengths)


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=30)
@given(
    item=st.sampled_from([MCQ, CLOZE, PAIR, TALK]),
    max_length=st.integers(1, 250),
    repeats=st.integers(0, 6),
    append_eos=st.booleans(),
)
def test_the_cut_fits_and_spares_scaffold_and_answer(
    scorer: str, name: str, item: Item, max_length: int, repeats: int, append_eos: bool
) -> None:
    tokenizer = TOKENIZERS[name]
    chat = name != "plain"
    assume(item.choices or scorer in GENERATING)
    assume(item.kind != "chat" or chat)
    item = lengthened(item, "Neon and iron, and é. " * repeats)
    options: dict[str, Any] = {"append_eos": append_eos, "prompt": PromptConfig(chat=chat)}
    free = encoder(tokenizer, scorer, **options)
    tight = encoder(tokenizer, scorer, max_length=max_length, **options)
    try:
        cut = tight.training(item)
    except RowError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert "the answer is never cut" in refused
        return
    assert cut.target_ids == free.training(item).target_ids
    continuations = [request.continuation_ids for request in free.requests(item)]
    assert [request.continuation_ids for request in tight.requests(item)] == continuations
    assert longest(tight, item) <= max_length
    text, full = tight.context(item), free.context(item)
    endless = encoder(tokenizer, scorer, prompt=options["prompt"])
    if longest(endless, item) + append_eos <= max_length:
        assert text == full
        return
    assert len(text) < len(full)
    if chat:
        assert text.startswith(full[:8])
        assert text.endswith(TAIL)
    if scorer == "letter_logit":
        assert text[text.index("\nOptions:\n") :] == full[full.index("\nOptions:\n") :]
    elif item.kind == "multiple_choice":
        assert "Question: " in text
        assert "\nAnswer:" in text
    elif not chat:
        assert full.endswith(text)


@pytest.mark.parametrize("item", [MCQ, CLOZE, PAIR, TALK], ids=lambda item: item.kind)
def test_too_long_items_are_rejected_where_asked(item: Item) -> None:
    tokenizer = TOKENIZERS["chat"]
    length = longest(encoder(tokenizer), item)
    assert encoder(tokenizer, max_length=length, over_long="reject").training(item)
    with pytest.raises(RowError, match=f"has {length} tokens, {length - 1} are possible"):
        encoder(tokenizer, max_length=length - 1, over_long="reject").training(item)


def test_the_cut_is_the_smallest_and_from_the_left() -> None:
    item = Item("i", "multiple_choice", " ".join(str(i) for i in range(200)), ("iron", "the neon"), 0, "iron")
    encode = encoder(TOKENIZERS["plain"], "choice_loglik", max_length=100)
    kept = encode.context(item).removeprefix("Question: ").removesuffix("\nAnswer:")
    assert item.question.endswith(kept)
    assert longest(encode, item) == 100
    # every choice, and training, stands after the same prompt
    contexts = {request.context_ids for request in encode.requests(item)} | {encode.training(item).context_ids}
    assert len(contexts) == 1


def test_something_must_be_asked_and_the_answer_stays_whole() -> None:
    tokenizer = TOKENIZERS["plain"]
    item = Item("i", "completion", prompt="abc", target="0123456789")
    assert encoder(tokenizer, max_length=12).context(item) == "c"
    for max_length in (11, 10, 5, 1):
        with pytest.raises(RowError, match=rf"12 tokens even .* {max_length} are possible; the answer is never cut"):
            encoder(tokenizer, max_length=max_length).training(item)


def test_old_turns_of_a_chat_go_first() -> None:
    tokenizer = TOKENIZERS["chat"]
    length = longest(encoder(tokenizer), TALK)
    texts = [encoder(tokenizer, max_length=room).context(TALK) for room in range(length, length - 20, -1)]
    end = "<|user|>And Italy?" + TAIL
    assert texts[0] == f"<|system|>Be short.<|end|><|user|>Norway?<|end|><|assistant|>Oslo<|end|>{end}"
    assert texts[1] == f"<|system|>Be short.<|end|><|user|>orway?<|end|><|assistant|>Oslo<|end|>{end}"
    assert f"<|system|>Be short.<|end|>{end}" in texts  # emptied turns go, and the rest begins with a user again
    for text in texts:
        assert text.startswith("<|system|>Be short.<|end|><|user|>")
        assert text.endswith("Italy?" + TAIL)
