"""Score items with a causal language model: all scorers, batched, the same before, during and after training.

A verdict does not depend on batch size, order or company up to rounding; an item that cannot be scored gets a verdict
with `error` and disturbs no other.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from cpl_ray.assessment import Verdict
from cpl_ray.config import Config
from cpl_ray.encoding import GENERATING, SCORERS, Encoded, Encoder
from cpl_ray.forward import Limits, alone, evaluating
from cpl_ray.generate import Generated, greedy, stop_ids
from cpl_ray.items import Item, RowError
from cpl_ray.judging import NON_FINITE, answers, decided, failed, judge_choices, reordered, worse
from cpl_ray.likelihood import Ask, read_scores
from cpl_ray.token_overlap import best_f1, first_lines, num_lines
from cpl_ray.vision import Vision


class Scorer:
    """Asks a model the items and judges its answers."""

    def __init__(
        self,
        tokenizer: Any,
        encoder: Encoder,
        *,
        name: str,
        batch_size: int,
        max_new_tokens: int = 32,
        min_f1: float = 0.8,
        permutations: int = 0,
        seed: int = 0,
        share_prompts: bool = True,
    ) -> None:
        """Prepare scoring.

        Args:
            tokenizer: decodes generated answers.
            encoder: turns items into requests; built for the same scorer. Where it appends the end token to an answer,
                `exact_match` demands that nothing follows the answer. Its `vision` makes the inputs of images.
            name: one of `SCORERS`.
            batch_size: sequences per forward pass.
            max_new_tokens: longest generated answer in tokens; only generating scorers.
            min_f1: smallest F1 that is right; only `token_f1`.
            permutations: further option orders that must be answered rightly too; only `letter_logit`.
            seed: chooses the further option orders, per item id.
            share_prompts: compute what choices and items begin with once a pass, where the model allows it; False: run
                every choice as a row of its own. Only scorers that do not generate.
        """
        if name not in SCORERS:
            raise ValueError(f"unknown scorer {name!r}; valid are {', '.join(SCORERS)}")
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.name = name
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self.min_f1 = min_f1
        self.vision: Vision | None = encoder.vision  # type: ignore[assignment]  # pure code knows its protocol only
        self.permutations = permutations if name == "letter_logit" else 0
        self.seed = seed
        self.share_prompts = share_prompts

    @classmethod
    def of(
        cls, config: Config, tokenizer: Any, *, name: str, max_length: int, vision: Vision | None = None
    ) -> "Scorer":
        """Return the scorer of a run, with its encoder, as configured."""
        return cls(
            tokenizer,
            Encoder.of(config, tokenizer, scorer=name, max_length=max_length, vision=vision),
            name=name,
            batch_size=config.assess.batch_size,
            max_new_tokens=config.assess.max_new_tokens,
            min_f1=config.assess.min_f1,
            permutations=config.assess.permutations,
        )

    def score(
        self,
        model: nn.Module,
        items: Sequence[Item],
        *,
        sync_max: Callable[[int], int] = alone,
        brief: bool = False,
    ) -> list[Verdict]:
        """Return one verdict per item, in order. Training state of the model is restored afterwards.

        Args:
            model: a causal language model, or a DeepSpeed engine around one. Under ZeRO-3 every rank must call this
                together, each with its own items (none is fine).
            items: what to ask.
            sync_max: maximum of a number over all ranks, a collective.
            brief: end a generated answer as soon as its correctness is decided; `prediction` is then cut short,
                `correct` is the same. Only generating scorers.
        """
        with evaluating(model), torch.no_grad():
            if self.name in GENERATING:
                return self._by_generation(model, items, sync_max, brief)
            return self._by_scores(model, items, sync_max)

    def _by_scores(self, model: nn.Module, items: Sequence[Item], sync_max: Callable[[int], int]) -> list[Verdict]:
        variants: list[tuple[int, Item]] = []
        for index, item in enumerate(items):
            variants.append((index, item))
            variants += [(index, variant) for variant in reordered(item, self.permutations, self.seed)]
        asks: list[Ask] = []
        errors: dict[int, str] = {}
        limits = Limits(model, self.tokenizer)
        for position, (_, variant) in enumerate(variants):
            try:
                new = self._asks(position, variant)
                for ask in new:
                    limits.check(ask.inputs, ask.targets)
                asks += new
            except RowError as error:
                errors[position] = str(error)
        scores = read_scores(
            model,
            asks,
            batch_size=self.batch_size,
            sync_max=sync_max,
            vision=self.vision,
            share_prompts=self.share_prompts,
        )
        verdicts: dict[int, Verdict] = {}
        for position, (index, variant) in enumerate(variants):
            verdict = judge_choices(variant, scores.get(position, []), errors.get(position), self.name)
            verdicts[index] = worse(verdicts[index], verdict) if index in verdicts else verdict
        return [verdicts[index] for index in range(len(items))]

    def _asks(self, position: int, item: Item) -> list[Ask]:
        """Return what to read for one item: one ask for all letters, or one per choice.

        Raises:
            RowError: the item cannot be asked.
        """
        if item.answer is None or len(item.choices) < 2 or not all(item.choices):
            raise RowError(f"the scorer {self.name} compares choices, and this item has not at least two")
        requests = self.encoder.requests(item)
        if self.name == "letter_logit":
            context = requests[0].context_ids
            letters = tuple(self.encoder.letter_ids(item))
            return [Ask(position, context, len(context) - 1, letters, letters=True, picture=item.image)]
        return [
            Ask(
                position,
                (request.context_ids + request.continuation_ids)[:-1],
                len(request.context_ids) - 1,
                request.continuation_ids,
                letters=False,
                picture=item.image,
            )
            for request in requests
        ]

    def _by_generation(
        self, model: nn.Module, items: Sequence[Item], sync_max: Callable[[int], int], brief: bool
    ) -> list[Verdict]:
        limits = Limits(model, self.tokenizer)
        stop = stop_ids(model, self.tokenizer)
        verdicts: dict[int, Verdict] = {}
        asked: dict[int, Encoded] = {}
        for index, item in enumerate(items):
            try:
                asked[index] = self._generable(item, limits)
            except RowError as error:
                verdicts[index] = failed(item.id, str(error))
        order = sorted(asked, key=lambda index: (-len(asked[index].context_ids), asked[index].context_ids))
        device = next(model.parameters()).device
        for batch in range(sync_max(-(-len(order) // self.batch_size))):
            rows = order[batch * self.batch_size : (batch + 1) * self.batch_size]

            def finished(row: int, ids: list[int], rows: list[int] = rows) -> bool:
                index = rows[row]
                return self._decided(items[index], self._decode(ids), strict=self._strict(asked[index]))

            generated = greedy(
                model,
                [asked[index].context_ids for index in rows],
                max_new=[self.max_new_tokens] * len(rows),
                stop=stop,
                max_positions=limits.num_positions,
                device=device,
                finished=finished if brief else None,
                sync_max=sync_max,
                vision=self.vision,
                pictures=[items[index].image for index in rows],
            )
            for index, result in zip(rows, generated, strict=True):
                verdicts[index] = self._judge_text(items[index], result, self._strict(asked[index]))
        return [verdicts[index] for index in range(len(items))]

    def _generable(self, item: Item, limits: Limits) -> Encoded:
        """Encode one item for generation.

        Raises:
            RowError: it cannot be asked, or its answer cannot be generated within the limits: such an item would count
                as wrong whatever the model knows.
        """
        if not item.target.strip():
            raise RowError("the answer is empty")
        encoded = self.encoder.training(item)
        limits.check(encoded.context_ids, encoded.target_ids)
        answer = len(encoded.target_ids) - int(self._strict(encoded))
        if answer > self.max_new_tokens:
            raise RowError(f"the answer has {answer} tokens, more than assess.max_new_tokens {self.max_new_tokens}")
        return encoded

    def _strict(self, encoded: Encoded) -> bool:
        """Tell whether the end token is trained as part of the answer, so that nothing may follow it."""
        return encoded.target_ids[-1] == self.tokenizer.eos_token_id

    def _judge_text(self, item: Item, result: Generated, strict: bool) -> Verdict:
        if not result.finite:
            return failed(item.id, NON_FINITE)
        text = self._decode(result.ids)
        lines = text.strip().splitlines()
        if self.name == "token_f1":
            f1 = best_f1(text, item.accepted, whole=strict)
            shown = text.strip() if strict else first_lines(text, max(map(num_lines, item.accepted)))
            return Verdict(item.id, f1 >= self.min_f1, shown, math.nan, f1=f1)
        correct = any(answers(text, target, strict=strict) for target in item.accepted)
        return Verdict(item.id, correct, lines[0].strip() if lines else "", math.nan)

    def _decided(self, item: Item, text: str, *, strict: bool) -> bool:
        """Tell whether no further text can change the verdict."""
        if self.name == "token_f1":
            enough = max(map(num_lines, item.accepted))
            # the line after the last that counts has begun
            return not strict and num_lines(text) > enough
        settled = [target for target in item.accepted if decided(text, target, strict=strict)]
        return len(settled) == len(item.accepted) or any(answers(text, target, strict=strict) for target in settled)

    def _decode(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text
