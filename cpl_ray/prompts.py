"""Prompt texts: what an item looks like to the model, and which part of it gives way when it is too long."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cpl_ray.config import PromptConfig
from cpl_ray.errors import ConfigError
from cpl_ray.items import LETTERS, Item, Message, RowError

LETTER_PROMPT = "Question: {question}\nOptions:\n{options}\n\nAnswer with only the letter of the correct option."
"""Standard prompt of `letter_logit`, one user turn of the chat template."""

PLAIN_LETTER_PROMPT = LETTER_PROMPT + "\nAnswer:\n"
"""The same without a chat template; it ends in a line end, after which a bare letter is a usual token."""

TEXT_PROMPT = "Question: {question}\nAnswer:"
"""Standard prompt of multiple-choice items for the other scorers."""

FILLED = ("multiple_choice", "question")
"""Kinds of items whose question is filled into a template."""

# Some templates print today's date by default; a prompt that differs tomorrow would break resume and comparison.
_TEMPLATE_DATE = "26 Jul 2024"
_SYSTEM_ROLES = ("system", "developer")
_WORDS = "cpl-user-words"


def uses_chat(scorer: str, prompt: PromptConfig, tokenizer: Any) -> bool:
    """Say whether prompts of multiple-choice items are wrapped in the chat template.

    They are when asked to, and for the standard letter prompt wherever the tokenizer has a template.
    """
    return prompt.chat or (scorer == "letter_logit" and prompt.template is None and bool(tokenizer.chat_template))


def template_of(scorer: str, prompt: PromptConfig, tokenizer: Any) -> str:
    """Return the text that multiple-choice items are filled into."""
    if prompt.template is not None:
        return prompt.template
    if scorer != "letter_logit":
        return TEXT_PROMPT
    return LETTER_PROMPT if uses_chat(scorer, prompt, tokenizer) else PLAIN_LETTER_PROMPT


def shows_options(item: Item, scorer: str, prompt: PromptConfig) -> bool:
    """Say whether the model sees the options of an item in their order, so that another order is another question."""
    if len(item.choices) < 2 or item.answer is None:
        return False
    if scorer == "letter_logit":
        return True
    return item.kind in FILLED and "{options}" in (prompt.template or "")


def render(item: Item, *, scorer: str, prompt: PromptConfig, tokenizer: Any, image_text: str = "") -> tuple[str, bool]:
    """Return the prompt text of an item, and whether it went through the chat template.

    An item's image comes before everything else: as the template places it in the first user turn, else as
    `image_text`.

    Raises:
        RowError: the chat template refuses the item.
        ConfigError: a chat item, and the tokenizer has no chat template.
    """
    if item.kind == "chat":
        return _templated(item, item.messages, tokenizer), True
    chat = prompt.chat
    if item.kind in FILLED:
        text = _filled(item, template_of(scorer, prompt, tokenizer))
        chat = uses_chat(scorer, prompt, tokenizer)
    else:
        text = asked(item)
    if chat:
        return _templated(item, [Message("user", text)], tokenizer), True
    return (image_text if item.image is not None else "") + text, False


def _filled(item: Item, template: str) -> str:
    options = "\n".join(f"{letter}: {choice}" for letter, choice in zip(LETTERS, item.choices, strict=False))
    values = {"{question}": item.question, "{options}": options}
    # one pass, so that braces in questions and options stay what they are
    return re.sub(r"\{question\}|\{options\}", lambda match: values[match[0]], template)


def _templated(item: Item, messages: Sequence[Message], tokenizer: Any) -> str:
    if not tokenizer.chat_template:
        raise ConfigError(f"item {item.id!r} is a chat, but the tokenizer has no chat template")
    turns: list[dict[str, Any]] = [{"role": message.role, "content": message.content} for message in messages]
    if item.image is not None:
        for turn in turns:
            turn["content"] = [{"type": "text", "text": turn["content"]}]
        first = next(turn for turn in turns if turn["role"] == "user")
        first["content"].insert(0, {"type": "image"})
    try:
        text = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, date_string=_TEMPLATE_DATE
        )
    except Exception as error:  # a template is a program of the model's author and raises what it likes
        raise RowError(f"the tokenizer's chat template refuses the item: {error}") from None
    return str(text)


def open_user_turn(tokenizer: Any) -> str:
    """Return the chat template's text up to where the user's words begin.

    A chat model that goes on from here writes a question: Magpie, Xu et al. 2024 (arXiv 2406.08464), section 2.1.

    Raises:
        ConfigError: the tokenizer has no chat template, or none that shows the user's words.
    """
    if not tokenizer.chat_template:
        raise ConfigError("prompt.chat is true, but the tokenizer has no chat template; set prompt.chat=false")
    try:
        text = _templated(Item("open-turn", "chat"), [Message("user", _WORDS)], tokenizer)
    except RowError as error:
        raise ConfigError(f"no question can be sampled: {error}; give propose.prompts") from None
    before, found, _ = text.partition(_WORDS)
    if not found:
        raise ConfigError(
            "the chat template does not show the user's words, so none can be sampled; give propose.prompts"
        )
    return before


def check_words_shown(tokenizer: Any, item: Item) -> bool:
    """Check that the chat template shows what a user says, in an item with or without an image as the one given.

    A template that drops it would make one prompt of all questions.

    Returns:
        Whether the item has an image, which is what the answer holds for.

    Raises:
        ConfigError: it does not.
    """
    try:
        text = _templated(replace(item, kind="chat"), [Message("user", _WORDS)], tokenizer)
    except RowError:  # it takes no single turn of a user; what it makes of real items is told item by item
        text = _WORDS
    if _WORDS not in text:
        what = " beside an image" if item.image is not None else ""
        raise ConfigError(
            f"the tokenizer's chat template does not show the user's words{what}, so all questions would be the same "
            "prompt; mend the template (chat_template.jinja or tokenizer_config.json in the model's folder), or set "
            "prompt.chat=false and a prompt.template of your own"
        )
    return item.image is not None


def asked(item: Item) -> str:
    """Return the text that may be cut: question, cloze, prompt, or the turns of a chat without the system's."""
    if item.kind == "chat":
        return "".join(turn.content for turn in item.messages if turn.role not in _SYSTEM_ROLES)
    if item.kind == "completion":
        return item.prompt or ""
    return (item.cloze or "") if item.kind == "cloze" else item.question


def without(item: Item, num_characters: int) -> Item:
    """Return the item without the first characters of what is asked.

    The oldest turns of a chat give way first; turns that are cut away altogether are dropped up to the next user turn,
    so that roles still alternate as templates demand.
    """
    if item.kind == "completion":
        return replace(item, prompt=asked(item)[num_characters:])
    if item.kind == "cloze":
        return replace(item, cloze=asked(item)[num_characters:])
    if item.kind in FILLED:
        return replace(item, question=asked(item)[num_characters:])
    systems: list[Message] = []
    kept: list[Message] = []
    for turn in item.messages:
        if turn.role in _SYSTEM_ROLES:
            systems.append(turn)
            continue
        if turn.role == "user" and not any(earlier.content for earlier in kept):
            kept.clear()
        kept.append(replace(turn, content=turn.content[num_characters:]))
        num_characters = max(0, num_characters - len(turn.content))
    return replace(item, messages=(*systems, *kept))


def prompt_fingerprint(scorer: str, prompt: PromptConfig, tokenizer: Any) -> str:
    """Return a sha256 over everything that shapes a prompt: scorer, prompt text, chat template if used.

    Two assessments with the same fingerprint asked in the same words.
    """
    chat = uses_chat(scorer, prompt, tokenizer)
    parts = {
        "scorer": scorer,
        "template": template_of(scorer, prompt, tokenizer),
        "chat": chat,
        "chat_template": tokenizer.chat_template if chat else None,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
