"""Items as token ids: the prompt an item becomes, where its answer starts, and what gives way when it is too long.

Likelihood requests equal those of lm-evaluation-harness 0.4.13 (`TemplateLM.loglikelihood`, `HFLM.tok_encode`) token
for token. The tokenizer is passed in, so nothing heavy is imported here.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cpl_ray.config import PromptConfig
from cpl_ray.errors import ConfigError
from cpl_ray.items import LETTERS, Item, Message, RowError

SCORERS = ("letter_logit", "choice_loglik", "choice_loglik_norm", "exact_match")
"""Resolved scorer names; `auto` is resolved before anything is encoded."""

LETTER_PROMPT = "Question: {question}\nOptions:\n{options}\n\nAnswer with only the letter of the correct option."
"""Standard prompt of `letter_logit`, one user turn of the chat template."""

PLAIN_LETTER_PROMPT = LETTER_PROMPT + "\nAnswer:\n"
"""The same without a chat template; it ends in a line end, after which a bare letter is a usual token."""

TEXT_PROMPT = "Question: {question}\nAnswer:"
"""Standard prompt of multiple-choice items for the other scorers."""

# Some templates print today's date by default; a prompt that differs tomorrow would break resume and comparison.
_TEMPLATE_DATE = "26 Jul 2024"


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to score: `continuation_ids` given `context_ids`."""

    context_ids: tuple[int, ...]
    continuation_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Encoded:
    """One item to train: the loss is taken on `target_ids` only."""

    id: str
    context_ids: tuple[int, ...]
    target_ids: tuple[int, ...]


class Encoder:
    """Turns items into token ids for one tokenizer, scorer and prompt."""

    def __init__(
        self,
        tokenizer: Any,
        *,
        scorer: str,
        prompt: PromptConfig,
        max_length: int,
        over_long: str,
        append_eos: bool,
    ) -> None:
        """Check that tokenizer and settings fit together.

        Args:
            tokenizer: A Hugging Face tokenizer, or anything that encodes and decodes like one.
            scorer: One of `SCORERS`.
            prompt: Template and chat setting.
            max_length: Longest item in tokens, context and answer (and end token) together.
            over_long: `cut` the question from the left, or `reject` the item.
            append_eos: Train the end token after each answer.

        Raises:
            ConfigError: a chat template or an end token is asked for that the tokenizer does not have.
        """
        if scorer not in SCORERS:
            raise ConfigError(f"scorer {scorer!r} is unknown; valid are {', '.join(SCORERS)}")
        if prompt.chat and not tokenizer.chat_template:
            raise ConfigError("prompt.chat is true, but the tokenizer has no chat template; set prompt.chat=false")
        if append_eos and tokenizer.eos_token_id is None:
            raise ConfigError("data.append_eos is true, but the tokenizer has no end token; set data.append_eos=false")
        self.tokenizer = tokenizer
        self.scorer = scorer
        self.prompt = prompt
        self.max_length = max_length
        self.over_long = over_long
        self._end = (tokenizer.eos_token_id,) if append_eos else ()
        self._chat = _uses_chat(scorer, prompt, tokenizer)
        self._letters: list[int] = []
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        self._prefix_id: int | None = bos if bos is not None else eos
        self._prefix_text: str | None = None if self._prefix_id is None else tokenizer.decode(self._prefix_id)

    def context(self, item: Item) -> str:
        """Return the prompt text as the model sees it, with the question already cut where that is needed.

        Raises:
            RowError: see `training`.
        """
        return self._fitted(item)[0]

    def training(self, item: Item) -> Encoded:
        """Encode an item for training.

        Raises:
            RowError: too long and `over_long` is `reject`, or too long even without its question; or the scorer cannot
                use the item.
        """
        _, context, target, _ = self._fitted(item)
        return Encoded(item.id, context, target + self._end)

    def requests(self, item: Item) -> list[Request]:
        """Encode what the scorer asks of the model.

        Returns:
            One request per choice for `choice_loglik` and `choice_loglik_norm`. For `letter_logit` and `exact_match`
            one request with an empty continuation: the next-token logits or the greedy continuation are looked at.

        Raises:
            RowError: see `training`; also an item without choices where the scorer compares choices.
        """
        _, context, _, requests = self._fitted(item)
        if self.scorer in ("letter_logit", "exact_match"):
            return [Request(context, ())]
        if not requests:
            raise RowError(f"the scorer {self.scorer} compares choices, but item {item.id!r} has none")
        return requests

    def letter_ids(self, item: Item) -> list[int]:
        """Return the token of each option letter: the last one of the letter encoded without special tokens.

        Raises:
            RowError: the item has no choices.
            ConfigError: the tokenizer does not tell the letters apart.
        """
        if not item.choices:
            raise RowError(f"the scorer letter_logit compares letters, but item {item.id!r} has no choices")
        for letter in LETTERS[len(self._letters) : len(item.choices)]:
            ids = self.tokenizer.encode(letter, add_special_tokens=False)
            if not ids or ids[-1] in self._letters:
                raise ConfigError(
                    f"the scorer letter_logit needs a token of its own for the letter {letter!r}, which the tokenizer"
                    " does not give; set assess.scorer=choice_loglik"
                )
            self._letters.append(ids[-1])
        return self._letters[: len(item.choices)]

    def _by_letter(self, item: Item) -> bool:
        return self.scorer == "letter_logit" and item.kind in ("multiple_choice", "cloze")

    def _by_choice(self, item: Item) -> bool:
        return self.scorer.startswith("choice_loglik") and item.kind in ("multiple_choice", "cloze")

    def _fitted(self, item: Item) -> tuple[str, tuple[int, ...], tuple[int, ...], list[Request]]:
        """Encode an item, cut if it must be.

        The cut is the smallest number of leading characters of the question without which every continuation fits; all
        choices share it, so that they are compared after the same prompt.

        Returns:
            Context text, context ids, target ids without end token, one request per choice (for choice scorers).
        """
        whole = self._encode(item)
        if self._length(whole) <= self.max_length:
            return whole
        if self.over_long == "reject":
            raise RowError(f"{self._length(whole)} tokens, more than the {self.max_length} that are possible")
        too_little, enough = 0, len(_asked(item))
        fitted = self._encode(_without(item, enough))
        if self._length(fitted) > self.max_length:
            raise RowError(
                f"{self._length(fitted)} tokens even without its question, more than the {self.max_length} that are"
                " possible; the answer is never cut"
            )
        while enough - too_little > 1:
            middle = (too_little + enough) // 2
            candidate = self._encode(_without(item, middle))
            if self._length(candidate) <= self.max_length:
                fitted, enough = candidate, middle
            else:
                too_little = middle
        return fitted

    def _length(self, parts: tuple[str, tuple[int, ...], tuple[int, ...], list[Request]]) -> int:
        """Return the tokens of the longest sequence of an encoded item, end token included."""
        _, context, target, requests = parts
        others = [len(request.context_ids) + len(request.continuation_ids) for request in requests]
        return max([len(context) + len(target), *others]) + len(self._end)

    def _encode(self, item: Item) -> tuple[str, tuple[int, ...], tuple[int, ...], list[Request]]:
        """Encode an item as it is, however long."""
        text, templated = self._render(item)
        if self._by_letter(item):
            letters = self.letter_ids(item)
            assert item.answer is not None  # every item with choices has one
            return text, self._ids(text, special=not templated) or self._prefix(), (letters[item.answer],), []
        # after a template's generation prompt the answer starts bare, as in lm-evaluation-harness
        joint = "" if templated or item.kind in ("completion", "chat") else " "
        requests: list[Request] = []
        special: bool | None = None if not templated else False
        if self._by_choice(item):
            special = None
            requests = [self._request(text, joint + choice, LETTERS[i]) for i, choice in enumerate(item.choices)]
        context, target = self._training_pair(text, joint + item.target, special)
        return text, context, target, requests

    def _render(self, item: Item) -> tuple[str, bool]:
        """Return the prompt text, and whether it went through the chat template."""
        if item.kind == "chat":
            if not self.tokenizer.chat_template:
                raise ConfigError(f"item {item.id!r} is a chat, but the tokenizer has no chat template")
            return self._templated(item.messages), True
        if self._by_letter(item) and item.kind == "cloze":
            prompt = self._filled(item, replace_question=item.cloze)
        elif item.kind == "multiple_choice":
            prompt = self._filled(item)
        else:
            prompt = (item.cloze if item.kind == "cloze" else item.prompt) or ""
        # letter_logit takes the template by itself, other kinds of rows only when asked to
        if self.prompt.chat or (self._chat and self._by_letter(item)):
            return self._templated([Message("user", prompt)]), True
        return prompt, False

    def _filled(self, item: Item, replace_question: str | None = None) -> str:
        """Fill the prompt template of a multiple-choice item."""
        if self.prompt.template is not None and item.kind == "multiple_choice":
            template = self.prompt.template
        elif self.scorer != "letter_logit":
            template = TEXT_PROMPT
        else:
            template = LETTER_PROMPT if self._chat else PLAIN_LETTER_PROMPT
        options = "\n".join(f"{letter}: {choice}" for letter, choice in zip(LETTERS, item.choices, strict=False))
        values = {"{question}": replace_question or item.question, "{options}": options}
        # one pass, so that braces in questions and options stay what they are
        return re.sub(r"\{question\}|\{options\}", lambda match: values[match[0]], template)

    def _templated(self, messages: Sequence[Message]) -> str:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True, date_string=_TEMPLATE_DATE
            )
        except Exception as error:  # a template is a program of the model's author and raises what it likes
            raise RowError(f"the tokenizer's chat template refuses the item: {error}") from None
        return str(text)

    def _prefix(self) -> tuple[int, ...]:
        """Return what stands for an empty context."""
        if self._prefix_id is None:
            raise RowError("the prompt is empty and the tokenizer has no start or end token to put in its place")
        return (self._prefix_id,)

    def _ids(self, text: str, special: bool | None = None) -> tuple[int, ...]:
        """Encode text.

        Args:
            text: Any text.
            special: Whether the tokenizer may add its special tokens; None: as lm-evaluation-harness does, its default
                unless the text already starts with the start token.
        """
        if special is not False and self._prefix_text is not None and text.startswith(self._prefix_text):
            special = False
        ids = tuple(self.tokenizer.encode(text) if special is not False else self._bare(text))
        # a start token belongs before a prompt, an end token after it would cut prompt and answer apart
        end = self.tokenizer.eos_token_id
        if special is not False and end is not None and len(ids) > 1 and ids[-1] == end and self._bare(text)[-1:] != [end]:
            ids = ids[:-1]
        return ids

    def _bare(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _pair(self, context: str, continuation: str, special: bool | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Encode a pair as `TemplateLM.loglikelihood` does: together, then cut at the length of the context's ids."""
        if not context:
            ids = tuple(self._bare(continuation))
            prefix = self._prefix()
            return (prefix, ids) if ids[:1] != prefix else (ids[:1], ids[1:])
        bare = context.rstrip()
        continuation = context[len(bare) :] + continuation
        context_ids = self._ids(bare, special)
        return context_ids, self._ids(bare + continuation, special)[len(context_ids) :]

    def _request(self, context: str, continuation: str, letter: str) -> Request:
        context_ids, continuation_ids = self._pair(context, continuation, None)
        if not continuation_ids or not context_ids:
            raise RowError(f"choice {letter} ({continuation!r}) gives no token of its own after the prompt")
        return Request(context_ids, continuation_ids)

    def _training_pair(self, context: str, target: str, special: bool | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Encode a pair for training: together, cut where the answer starts.

        Where a token spans the border, the white space before it goes to the answer (as in `_pair`); where a token
        still spans it, both sides are encoded on their own. So the ids always spell context + target.
        """
        if context.strip():
            whole = self._ids(context + target, special)
            for before in (context, context.rstrip()):
                ids = self._ids(before, special)
                if ids and whole[: len(ids)] == ids and len(whole) > len(ids):
                    return ids, whole[len(ids) :]
        context_ids = self._ids(context, special) if context else self._prefix()
        target_ids = tuple(self._bare(target))
        if not target_ids or not context_ids:
            raise RowError(f"the {'answer' if context_ids else 'prompt'} gives no token: {(target or context)[:60]!r}")
        return context_ids, target_ids


def _uses_chat(scorer: str, prompt: PromptConfig, tokenizer: Any) -> bool:
    """Say whether prompts are wrapped: when asked to, and for the standard letter prompt wherever it is possible."""
    return prompt.chat or (scorer == "letter_logit" and prompt.template is None and bool(tokenizer.chat_template))


def _asked(item: Item) -> str:
    """Return the text that may be cut: the question, the cloze, the prompt, or all turns of a chat but the system's."""
    if item.kind == "chat":
        return "".join(turn.content for turn in item.messages if turn.role != "system")
    if item.kind == "completion":
        return item.prompt or ""
    return (item.cloze if item.kind == "cloze" else item.question) or ""


def _without(item: Item, num_characters: int) -> Item:
    """Return the item without the first characters of what is asked.

    The oldest turns of a chat give way first; turns that are cut away altogether are dropped up to the next user turn,
    so that roles still alternate.
    """
    if item.kind == "completion":
        return replace(item, prompt=(item.prompt or "")[num_characters:])
    if item.kind == "cloze":
        return replace(item, cloze=(item.cloze or "")[num_characters:])
    if item.kind == "multiple_choice":
        return replace(item, question=item.question[num_characters:])
    kept: list[Message] = []
    first = 0
    turns = [turn for turn in item.messages if turn.role != "system"]
    for number, turn in enumerate(turns):
        if turn.role == "user" and num_characters >= 0 and all(not cut.content for cut in kept):
            first = number
        kept.append(replace(turn, content=turn.content[num_characters:]))
        num_characters = max(0, num_characters - len(turn.content))
    systems = tuple(turn for turn in item.messages if turn.role == "system")
    return replace(item, messages=systems + tuple(kept[first:]))


def prompt_fingerprint(scorer: str, prompt: PromptConfig, tokenizer: Any) -> str:
    """Return a sha256 over everything that shapes a prompt: scorer, template, standard texts, chat template if used.

    Two assessments with the same fingerprint asked the same questions in the same words.
    """
    chat = _uses_chat(scorer, prompt, tokenizer)
    standard = (LETTER_PROMPT if chat else PLAIN_LETTER_PROMPT) if scorer == "letter_logit" else TEXT_PROMPT
    parts = {
        "scorer": scorer,
        "template": prompt.template or standard,
        "chat": chat,
        "chat_template": tokenizer.chat_template if chat else None,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
