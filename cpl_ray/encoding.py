"""Items as token ids: where a prompt ends and its answer starts, and how an item is cut to the longest length.

Likelihood requests equal those of lm-evaluation-harness 0.4.13 (`TemplateLM.loglikelihood`, `HFLM.tok_encode`) token
for token. The tokenizer is passed in, so nothing heavy is imported here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cpl_ray.config import Config, PromptConfig
from cpl_ray.encoded import Encoded, Request
from cpl_ray.errors import ConfigError
from cpl_ray.image_places import Ids, ImagePlaces, check_places, spliced
from cpl_ray.items import LETTERS, Item, RowError
from cpl_ray.prompts import asked, check_words_shown, render, without

__all__ = ["GENERATING", "SCORERS", "Encoded", "Encoder", "Request"]

SCORERS = ("letter_logit", "choice_loglik", "choice_loglik_norm", "exact_match", "token_f1")
"""Resolved scorer names; `auto` is resolved before anything is encoded."""

GENERATING = ("exact_match", "token_f1")
"""Scorers that let the model answer in its own words."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """Everything about one item in ids: prompt text, training pair without end token, requests of choice scorers."""

    text: str
    context: Ids
    target: Ids
    requests: Sequence[Request] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens of the longest sequence."""
        others = (len(request.context_ids) + len(request.continuation_ids) for request in self.requests)
        return max(len(self.context) + len(self.target), *others, 0)


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
        vision: ImagePlaces | None = None,
    ) -> None:
        """Check that tokenizer and settings fit together.

        Args:
            tokenizer: A Hugging Face tokenizer, or anything that encodes and decodes like one.
            scorer: One of `SCORERS`.
            prompt: Template and chat setting.
            max_length: Longest item in tokens, context and answer (and end token) together.
            over_long: `cut` the question from the left, or `reject` the item.
            append_eos: Train the end token after each answer.
            vision: Writes images into prompts; None: the model takes none.

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
        self.vision = vision
        self._splice: Ids = ()
        self._known: dict[tuple[str, bool], Ids] = {}
        self._shown: set[bool] = set()
        self.prompt = prompt
        self.max_length, self.over_long = max_length, over_long
        self.append_eos = append_eos
        self._end: Ids = (tokenizer.eos_token_id,) if append_eos else ()
        self._end_ids = {tokenizer.bos_token_id, tokenizer.eos_token_id}
        self._letters: list[int] = []
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        self._prefix_id: int | None = bos if bos is not None else eos
        self._prefix_text: str | None = None if self._prefix_id is None else tokenizer.decode(self._prefix_id)

    @classmethod
    def of(
        cls, config: Config, tokenizer: Any, *, scorer: str, max_length: int, vision: ImagePlaces | None = None
    ) -> "Encoder":
        """Return the encoder of a run: prompt, cutting and end token as configured."""
        data = config.data
        return cls(
            tokenizer,
            scorer=scorer,
            prompt=config.prompt,
            max_length=max_length,
            over_long=data.over_long,
            append_eos=data.append_eos,
            vision=vision,
        )

    def context(self, item: Item) -> str:
        """Return the prompt text as the model sees it, with the question already cut where that is needed.

        Raises:
            RowError: see `training`.
        """
        return self._fitted(item).text

    def training(self, item: Item) -> Encoded:
        """Encode an item for training.

        Raises:
            RowError: too long and `over_long` is `reject`, or too long even without its question; or the scorer cannot
                use the item.
            ConfigError: the tokenizer cannot express what the item needs (a chat, a letter).
        """
        parts = self._fitted(item)
        return Encoded(item.id, parts.context, parts.target + self._end, item.image)

    def requests(self, item: Item) -> list[Request]:
        """Encode what the scorer asks of the model.

        Returns:
            One request per choice for `choice_loglik` and `choice_loglik_norm`. For `letter_logit` and generating
            scorers one request with an empty continuation: next-token logits or greedy continuation are looked at.

        Raises:
            RowError: see `training`; also an item without choices where the scorer compares choices.
            ConfigError: see `training`.
        """
        if self.scorer not in GENERATING and not item.choices:
            raise RowError(f"the scorer {self.scorer} compares choices, but item {item.id!r} has none")
        parts = self._fitted(item)
        return list(parts.requests) or [Request(parts.context, ())]

    def letter_ids(self, item: Item) -> list[int]:
        """Return the token of each option letter: the last one of the letter encoded without special tokens.

        Raises:
            RowError: the item has no choices.
            ConfigError: the tokenizer does not tell the letters apart.
        """
        if not item.choices:
            raise RowError(f"the scorer letter_logit compares letters, but item {item.id!r} has no choices")
        for letter in LETTERS[len(self._letters) : len(item.choices)]:
            ids = self._bare(letter)
            if not ids or ids[-1] in self._letters:
                raise ConfigError(
                    f"the scorer letter_logit needs a token of its own for the letter {letter!r}, which the tokenizer"
                    " does not give; set assess.scorer=choice_loglik"
                )
            self._letters.append(ids[-1])
        return self._letters[: len(item.choices)]

    def _fitted(self, item: Item) -> _Parts:
        """Encode an item, cut if it must be.

        The cut takes as few leading characters of the question as make every continuation fit; all choices share it,
        so that they are compared after the same prompt. At least one character stays: something must be asked.
        """
        if self.scorer == "letter_logit" and item.kind == "cloze":
            item = replace(item, kind="multiple_choice", question=item.question or item.cloze or "")
        if item.image is not None and self.vision is None:
            raise RowError("the item has an image, and the model takes none")
        self._known = {}  # of one item at a time: requests and training pair encode the same texts
        self._splice = self.vision.splice(item.image) if item.image is not None and self.vision is not None else ()
        room = self.max_length - len(self._end)
        parts = self._encode(item)
        self._check(item, parts)
        if parts.num_tokens <= room:
            return parts
        if self.over_long == "reject":
            raise RowError(f"the item has {parts.num_tokens + len(self._end)} tokens, {self.max_length} are possible")
        too_little, enough = 0, max(len(asked(item)) - 1, 0)
        parts = self._encode(without(item, enough))
        if parts.num_tokens > room:
            raise RowError(
                f"the item has {parts.num_tokens + len(self._end)} tokens even with its question cut away,"
                f" {self.max_length} are possible; the answer is never cut"
            )
        while enough - too_little > 1:
            middle = (too_little + enough) // 2
            candidate = self._encode(without(item, middle))
            if candidate.num_tokens <= room:
                parts, enough = candidate, middle
            else:
                too_little = middle
        return parts

    def _encode(self, item: Item) -> _Parts:
        """Encode an item as it is, however long."""
        image = "" if self.vision is None else self.vision.image_text
        words, prompt = self.tokenizer, self.prompt
        text, templated = render(item, scorer=self.scorer, prompt=prompt, tokenizer=words, image_text=image)
        if templated and (item.image is not None) not in self._shown:  # once for each form of prompt
            self._shown.add(check_words_shown(words, item))
        if item.kind in ("completion", "chat"):
            return _Parts(text, *self._training_pair(text, item.target, not templated))
        if self.scorer == "letter_logit":
            letters = self.letter_ids(item)
            if item.answer is None:
                raise RowError(f"item {item.id!r} has choices but no answer")
            return _Parts(text, self._ids(text, not templated) or self._prefix(), (letters[item.answer],))
        # after a template's generation prompt the answer starts bare, as in lm-evaluation-harness
        joint = "" if templated else " "
        if self.scorer in GENERATING:
            return _Parts(text, *self._training_pair(text, joint + item.target, not templated))
        requests = self._requests(text, [joint + choice for choice in item.choices])
        return _Parts(text, *self._training_pair(text, joint + item.target, True), requests)

    def _check(self, item: Item, parts: _Parts) -> None:
        """Refuse what the ids cannot say: an answer of unknown tokens, an image that is not where its tokens are.

        Choices of unknown tokens would all have the same ids, and the first of them would count as known.
        """
        unknown = self.tokenizer.unk_token_id
        answers = [parts.target, *(request.continuation_ids for request in parts.requests)]
        if unknown is not None and unknown not in self._end_ids and any(unknown in ids for ids in answers):
            raise RowError(f"the tokenizer has no token for a part of the answer {item.target[:60]!r} or of a choice")
        if self.vision is not None:
            contexts = [parts.context, *(request.context_ids for request in parts.requests)]
            check_places(contexts, answers, self.vision.image_token_id, self._splice, parts.text)

    def _requests(self, context: str, continuations: list[str]) -> list[Request]:
        """Encode choices as `TemplateLM.loglikelihood` does: with the context, then cut at the length of its ids."""
        bare = context.rstrip()
        context_ids = self._ids(bare, True) if context else self._prefix()
        requests = []
        for letter, continuation in zip(LETTERS, continuations, strict=False):
            if context:
                ids = self._ids(context + continuation, True)[len(context_ids) :]
                request = Request(context_ids, ids)
            else:
                ids = self._bare(continuation)
                request = Request(context_ids, ids) if ids[:1] != context_ids else Request(ids[:1], ids[1:])
            if not request.context_ids or not request.continuation_ids:
                raise RowError(f"choice {letter} ({continuation[:60]!r}) has no token of its own after the prompt")
            requests.append(request)
        return requests

    def _training_pair(self, context: str, target: str, special: bool) -> tuple[Ids, Ids]:
        """Encode a pair for training: together, cut where the answer starts.

        Where a token spans the border, white space before it goes to the answer (as in `_requests`); where one still
        spans it, both sides are encoded on their own. So the ids always spell context + target.
        """
        if context.strip():
            whole = self._ids(context + target, special)
            for before in dict.fromkeys((context, context.rstrip())):
                ids = self._ids(before, special)
                if ids and whole[: len(ids)] == ids and len(whole) > len(ids):
                    return ids, whole[len(ids) :]
        context_ids = self._ids(context, special) if context else self._prefix()
        target_ids = self._bare(target)
        if not context_ids or not target_ids:
            name, text = ("answer", target) if context_ids else ("prompt", context)
            raise RowError(f"the {name} {text[:60]!r} has no token")
        return context_ids, target_ids

    def _prefix(self) -> Ids:
        """Return what stands for an empty context."""
        if self._prefix_id is None:
            raise RowError("the prompt is empty and the tokenizer has no start or end token to put in its place")
        return (self._prefix_id,)

    def _ids(self, text: str, special: bool) -> Ids:
        """Encode a prompt, alone or with an answer after it.

        Args:
            text: The prompt's text.
            special: Let the tokenizer add its own start token, unless the text already starts with it (as
                lm-evaluation-harness does). False after a chat template, which writes its own.
        """
        if (text, special) not in self._known:
            self._known[text, special] = self._encoded(text, special)
        return self._known[text, special]

    def _encoded(self, text: str, special: bool) -> Ids:
        if not special or (self._prefix_text is not None and text.startswith(self._prefix_text)):
            return self._bare(text)
        ids = self._placed(tuple(self.tokenizer.encode(text)))
        end = self.tokenizer.eos_token_id
        if len(ids) > 1 and ids[-1] == end and self._bare(text)[-1:] != (end,):
            return ids[:-1]  # an added end token would stand between prompt and answer
        return ids

    def _bare(self, text: str) -> Ids:
        return self._placed(tuple(self.tokenizer.encode(text, add_special_tokens=False)))

    def _placed(self, ids: Ids) -> Ids:
        """Put the tokens of the image of the item at hand in their place."""
        return spliced(ids, self.vision.image_token_id, self._splice) if self.vision and self._splice else ids
