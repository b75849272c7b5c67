"""A model writes its own items: the same whatever the batch, right under the scorer, errors kept with their row."""

from typing import Any

import pytest
import torch

from cpl_ray.actor_pool import Loaded
from cpl_ray.config import Config
from cpl_ray.drafting import drafting
from cpl_ray.errors import ConfigError
from cpl_ray.predict import Scorer
from cpl_ray.proxy_items import Draft, Seed, sift
from cpl_ray.proxy_prompts import seeds_of
from cpl_ray.proxy_writer import ProxyWriter
from tests.oracle.quiz import quiz, quiz_model

LENGTH = 96


@pytest.fixture(scope="module")
def taught() -> tuple[Any, Any]:
    return quiz_model()


def config(*, chat: bool = False, append_eos: bool = False, batch_size: int = 8, **propose: Any) -> Config:
    return Config.model_validate(
        {
            "model": "m",
            "prompt": {"chat": chat},
            "data": {"append_eos": append_eos},
            "assess": {"batch_size": batch_size},
            "propose": {"items": 6, **propose},
        }
    )


def write(settings: Config, taught: tuple[Any, Any], seeds: list[Seed] | None = None) -> list[Draft]:
    model, words = taught
    return ProxyWriter(settings, model, words, max_length=LENGTH).write(seeds or seeds_of(settings)[0])


@pytest.mark.parametrize("chat", [False, True])
def test_batches_change_nothing_and_the_seed_does(taught: tuple[Any, Any], chat: bool) -> None:
    seeds = seeds_of(config(candidates=12))[0]
    one = write(config(chat=chat, batch_size=1), taught, seeds)
    assert write(config(chat=chat, batch_size=5), taught, seeds[::-1]) == one[::-1]
    assert write(config(chat=chat, seed=1), taught, seeds) != one


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("append_eos", [False, True])
def test_kept_items_are_right_under_the_scorer(taught: tuple[Any, Any], chat: bool, append_eos: bool) -> None:
    settings = config(chat=chat, append_eos=append_eos)
    kept = sift(write(settings, taught), set()).kept
    # the plain form was taught without an end token, so none of its answers ends as `append_eos` demands
    assert bool(kept) == (chat or not append_eos)
    assert {draft.ended for draft in kept} <= ({"end token"} if chat else {"line"})
    known = [draft for draft in kept if draft.question in quiz()]
    assert len(known) >= len(kept) // 2  # it asks what it was taught
    model, words = taught
    asker = Scorer.of(
        config(chat=chat, append_eos=append_eos, batch_size=3), words, name="exact_match", max_length=LENGTH
    )
    verdicts = asker.score(model, [draft.item() for draft in kept][::-1])
    assert all(verdict.correct for verdict in verdicts)


def test_prompts_of_the_user_are_answered_as_they_are(taught: tuple[Any, Any]) -> None:
    question = next(iter(quiz()))
    seeds = [
        Seed("a", question=question),
        Seed("b", prompt=f"Question: {question}\nAnswer:"),
        Seed("c", prompt="x" * 999),
    ]
    asked, given, long = write(config(), taught, seeds)
    assert (asked.prompt, asked.completion) == (given.prompt, given.completion)
    assert asked.completion.strip()
    # it loses its beginning, as every item that is too long, and is answered or rejected with a reason
    assert long.reason is not None or long.completion
    rejecting = Config.model_validate({"model": "m", "data": {"over_long": "reject"}})
    assert write(rejecting, taught, seeds)[2].reason == "prompt that cannot be encoded"
    assert write(rejecting, taught, seeds)[0] == asked


def test_a_template_that_ends_in_the_question_makes_beginnings(taught: tuple[Any, Any]) -> None:
    drafts = [draft for draft in write(config(template="Question: {question}"), taught) if draft.reason is None]
    whole = {f"Question: {question}" for question in quiz()}
    assert {draft.prompt + draft.completion for draft in drafts} & whole
    assert not {draft.prompt for draft in drafts} & whole


def test_without_any_beginning_the_model_goes_on_from_its_end_token(taught: tuple[Any, Any]) -> None:
    model, words = taught
    writer = ProxyWriter(config(template="{question}"), model, words, max_length=LENGTH)
    assert writer._head_ids() == (words.eos_token_id,)
    assert len(writer.write([Seed("a"), Seed("b")])) == 2


def test_rows_that_break_cost_only_themselves(taught: tuple[Any, Any]) -> None:
    model, words = taught
    work = drafting(Loaded(config(), model, words, None, LENGTH))
    right = work([Seed("a", question="What is the sign of amber mill?").to_json()])
    bad = Seed("bad", prompt="z").to_json().replace('"z"', "7")  # no text
    rows = work([Seed("a", question="What is the sign of amber mill?").to_json(), bad])
    assert rows[0] == right[0]
    assert rows[1]["reason"] == "failed with an error"
    assert rows[1]["failure"].split(":")[0] in ("AttributeError", "TypeError")


def test_non_finite_logits_are_a_reason(taught: tuple[Any, Any]) -> None:
    model, _ = taught
    kept = model.model.norm.weight.data.clone()
    try:
        model.model.norm.weight.data.fill_(float("nan"))
        drafts = write(config(), taught, [Seed("a"), Seed("b", question="Who?")])
    finally:
        model.model.norm.weight.data.copy_(kept)
    assert [draft.reason for draft in drafts] == ["non-finite logits"] * 2
    assert torch.isfinite(model.model.norm.weight).all()


def test_a_chat_needs_a_template(taught: tuple[Any, Any]) -> None:
    model, words = taught
    template = words.chat_template
    try:
        for other in ("hello", None):
            words.chat_template = other
            with pytest.raises(ConfigError, match="chat template"):
                ProxyWriter(config(chat=True), model, words, max_length=LENGTH)
    finally:
        words.chat_template = template
