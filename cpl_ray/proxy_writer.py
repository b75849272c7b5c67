"""Let a model write items of a proxy mastered set: questions sampled, answers greedy."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from cpl_ray.cells import RowError
from cpl_ray.config import Config
from cpl_ray.encoding import Encoder
from cpl_ray.forward import Limits, evaluating
from cpl_ray.generate import Generated, greedy, stop_ids
from cpl_ray.items import Item
from cpl_ray.prompts import open_user_turn
from cpl_ray.proxy_items import Draft, Seed, answer_of, beginning, flawed
from cpl_ray.sampling import GumbelNoise, row_seed
from cpl_ray.vision import Vision

_SOME_ANSWER = " a"
_NON_FINITE = "non-finite logits"
_SLOT = "{question}"


class ProxyWriter:
    """Makes drafts of seeds; what a seed becomes depends on itself alone, up to rounding of the logits."""

    def __init__(
        self, config: Config, model: Any, tokenizer: Any, *, max_length: int, vision: Vision | None = None
    ) -> None:
        """Prepare writing.

        Args:
            config: gives prompt, limits, temperature, seed and batch size.
            model: a causal language model.
            tokenizer: its tokenizer.
            max_length: longest item in tokens.
            vision: makes the inputs of images; None: the model takes none.

        Raises:
            ConfigError: a chat template is asked for that cannot be used, or an end token that does not exist.
        """
        self.propose, self.chat, self.strict = config.propose, config.prompt.chat, config.data.append_eos
        self.batch_size = config.assess.batch_size
        self.max_new_tokens = config.assess.max_new_tokens
        self.model, self.tokenizer, self.vision = model, tokenizer, vision
        self.encoder = Encoder.of(config, tokenizer, scorer="exact_match", max_length=max_length, vision=vision)
        self.limits = Limits(model, tokenizer)
        self.stop = stop_ids(model, tokenizer)
        self.special = frozenset(tokenizer.all_special_ids) - self.stop
        head, _, tail = self.propose.template.partition(_SLOT)
        self.begins = not self.chat and not tail.strip()
        """True where the model begins a text instead of asking a question."""
        self.head = open_user_turn(tokenizer) if self.chat and self.propose.prompts is None else head.rstrip()

    def write(self, seeds: Sequence[Seed]) -> list[Draft]:
        """Return a draft for each seed, in order."""
        drafts: list[Draft] = []
        with evaluating(self.model), torch.no_grad():
            for start in range(0, len(seeds), self.batch_size):
                asked = self._questions(seeds[start : start + self.batch_size])
                answered = iter(self._answers([draft for draft in asked if draft.reason is None]))
                drafts += [next(answered) if draft.reason is None else draft for draft in asked]
        return drafts

    def _questions(self, seeds: Sequence[Seed]) -> list[Draft]:
        """Return drafts with a prompt: the user's, or a sampled one."""
        sampled = [seed for seed in seeds if seed.prompt is None and seed.question is None]
        written = iter(self._sampled(sampled))
        drafts = []
        for seed in seeds:
            if seed.prompt is not None:
                drafts.append(Draft(seed.id, prompt=seed.prompt))
            elif seed.question is not None:
                drafts.append(self._asking(Draft(seed.id), seed.question))
            else:
                drafts.append(next(written))
        return drafts

    def _sampled(self, seeds: Sequence[Seed]) -> list[Draft]:
        """Let the model write a question for each seed."""
        if not seeds:
            return []
        head = self._head_ids()
        texts = self._continue(
            [head] * len(seeds),
            self.propose.max_prompt_tokens,
            self.stop | self.special,
            one_line=not self.chat,
            perturb=GumbelNoise([row_seed(self.propose.seed, seed.id) for seed in seeds], self.propose.temperature),
        )
        return [self._question(seed, made, text) for seed, (made, text) in zip(seeds, texts, strict=True)]

    def _question(self, seed: Seed, made: Generated, text: str) -> Draft:
        draft = Draft(seed.id)
        if not made.finite:
            return replace(draft, reason=_NON_FINITE)
        body = text.strip()
        first, line_ended, _ = text.lstrip().partition("\n")
        question = body if self.chat else first.strip()
        if self.begins:
            question = beginning(question)
        elif not made.stopped and (self.chat or not line_ended):
            return replace(draft, reason="question does not end")
        flaw = flawed(question)
        return self._asking(draft, question) if flaw is None else replace(draft, reason=f"question {flaw}")

    def _asking(self, draft: Draft, question: str) -> Draft:
        prompt = question if self.chat else self.propose.template.replace(_SLOT, question).rstrip()
        return replace(draft, question=question, prompt=prompt)

    def _answers(self, drafts: Sequence[Draft]) -> list[Draft]:
        """Let the model answer each prompt greedily."""
        contexts: dict[str, Sequence[int]] = {}
        refused: dict[str, Draft] = {}
        for draft in drafts:
            try:
                # where the prompt ends in tokens is found with some answer behind it, as in scoring
                encoded = self.encoder.training(Item(draft.id, "completion", prompt=draft.prompt, target=_SOME_ANSWER))
                self.limits.check(encoded.context_ids)
                contexts[draft.id] = encoded.context_ids
            except RowError:
                refused[draft.id] = replace(draft, reason="prompt that cannot be encoded")
        texts = self._continue(list(contexts.values()), self.max_new_tokens, self.stop, one_line=self._one_line)
        made = dict(zip(contexts, texts, strict=True))
        return [refused.get(draft.id) or self._answered(draft, *made[draft.id]) for draft in drafts]

    @property
    def _one_line(self) -> bool:
        """True where the first line is the answer: a model that was not taught to end goes on with something else."""
        return not self.chat and not self.strict

    def _answered(self, draft: Draft, made: Generated, text: str) -> Draft:
        if not made.finite:
            return replace(draft, reason=_NON_FINITE)
        if not text.strip():
            return replace(draft, reason="answer empty")
        if self.special.intersection(made.ids):
            return replace(draft, reason="answer with a special token")
        found = answer_of(text, stopped=made.stopped, strict=self.strict, one_line=self._one_line)
        if found is None:
            return replace(draft, reason="answer does not end")
        completion, ended = found
        flaw = flawed(completion)
        if flaw is not None:
            return replace(draft, reason=f"answer {flaw}")
        return replace(draft, completion=completion, ended=ended)

    def _continue(
        self,
        contexts: Sequence[Sequence[int]],
        max_new: int,
        stop: frozenset[int],
        *,
        one_line: bool,
        perturb: Callable[[int, torch.Tensor], torch.Tensor] | None = None,
    ) -> list[tuple[Generated, str]]:
        """Continue contexts in one batch; with `one_line` a row ends after its first line that is not blank."""
        if not contexts:
            return []

        def finished(row: int, ids: list[int]) -> bool:
            return "\n" in self._spelled(contexts[row], ids).lstrip()

        made = greedy(
            self.model,
            contexts,
            max_new=[max_new] * len(contexts),
            stop=stop,
            max_positions=self.limits.num_positions,
            device=next(self.model.parameters()).device,
            finished=finished if one_line else None,
            vision=self.vision,
            pictures=[None] * len(contexts),
            perturb=perturb,
        )
        return [(one, self._spelled(context, one.ids)) for one, context in zip(made, contexts, strict=True)]

    def _spelled(self, context: Sequence[int], ids: Sequence[int]) -> str:
        """Return the text of the new tokens; some tokenizers spell a leading space only after something."""
        before, whole = self._decode(context), self._decode([*context, *ids])
        return whole[len(before) :] if whole.startswith(before) else self._decode(ids)

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _head_ids(self) -> Sequence[int]:
        """Return the ids that the model goes on from: the open user turn, or the template up to the question.

        An empty beginning is the start token, or the end token where there is no other.
        """
        if self.chat:
            return tuple(self.tokenizer.encode(self.head, add_special_tokens=False))
        item = Item("head", "completion", prompt=self.head, target=_SOME_ANSWER)
        return self.encoder.training(item).context_ids
