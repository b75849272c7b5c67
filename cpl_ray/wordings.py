"""The same items asked in other words: through other templates, and by paraphrases of their questions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from cpl_ray.config import PromptConfig
from cpl_ray.errors import ConfigError
from cpl_ray.files import NO_FILE, is_no_file
from cpl_ray.items import Item, Kind
from cpl_ray.prompts import FILLED

Key = Literal["question", "prompt", "cloze"]
KEYS: tuple[Key, ...] = ("question", "prompt", "cloze")
PHRASINGS = ("Q: {question}\nA:", "Please answer this: {question}\nThe answer is:", "{question}\nReply:")
"""Other prompts where the model answers in its own words, or choices are compared by their likelihood."""
LETTER_PHRASINGS = (
    "Choose the correct option.\n{question}\n{options}\nGive only its letter.",
    "{question}\n\n{options}\n\nWhich letter is right? Reply with the letter alone.",
    "Q: {question}\nChoices:\n{options}\nReply with one letter.",
)
"""Other prompts for the scorer `letter_logit`; without a chat template `LETTER_END` follows."""
LETTER_END = "\nAnswer:\n"
_OWN_KEY: dict[Kind, Key] = {
    "multiple_choice": "question",
    "question": "question",
    "cloze": "cloze",
    "completion": "prompt",
    "chat": "question",
}


class Paraphrase(NamedTuple):
    """Another wording."""

    key: Key
    """`question`: filled into a template; `prompt` and `cloze`: asked as it stands."""
    text: str


@dataclass(frozen=True)
class Wording:
    """Some items in other words."""

    name: str
    prompt: PromptConfig
    items: tuple[Item, ...]


def read_paraphrases(path: str | Path) -> dict[str, list[Paraphrase]]:
    """Read a file of `study.paraphrases`: by item's id its wordings in order.

    Raises:
        ConfigError: there is no such file, or a line is no object with `id` and one wording; names the line.
    """
    try:
        if is_no_file(Path(path)):
            raise ConfigError(f"study.paraphrases: {path} {NO_FILE}")
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"study.paraphrases: {path} cannot be read: {error}") from None
    found: dict[str, list[Paraphrase]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"study.paraphrases: line {number} of {path} is no JSON: {error}") from None
        keys = [key for key in KEYS if isinstance(row, dict) and key in row]
        texts = [row[key] for key in keys]
        if len(keys) != 1 or not isinstance(texts[0], str) or not texts[0].strip() or "id" not in row:
            raise ConfigError(
                f"study.paraphrases: line {number} of {path} needs id and one text out of {', '.join(KEYS)}; "
                f"it is {line[:80]!r}"
            )
        found.setdefault(str(row["id"]), []).append(Paraphrase(keys[0], texts[0]))
    if not found:
        raise ConfigError(f"study.paraphrases: {path} is empty")
    return found


def reworded(item: Item, paraphrase: Paraphrase) -> Item:
    """Return an item that asks the same in other words: same id, choices and answer.

    A statement or prompt paraphrased by a `question` is asked as a question through the template; a question
    paraphrased by a `cloze` or `prompt` is asked as that text. In a chat the last turn of the user is replaced.
    """
    key, text = paraphrase
    item = replace(item, paraphrases=())
    if item.kind == "chat":
        last = max(index for index, turn in enumerate(item.messages) if turn.role == "user")
        turns = [replace(turn, content=text) if n == last else turn for n, turn in enumerate(item.messages)]
        return replace(item, messages=tuple(turns))
    if key == "question":
        if item.kind in FILLED:
            return replace(item, question=text)
        kind: Kind = "multiple_choice" if item.choices else "question"
        return replace(item, kind=kind, question=text, target=item.target.strip(), cloze=None, prompt=None)
    if item.kind == "completion" and key == "prompt":
        return replace(item, prompt=text)
    return replace(item, kind="cloze", cloze=text.rstrip(), target=item.target.strip(), prompt=None)


def other_wordings(
    items: Sequence[Item],
    *,
    scorer: str,
    prompt: PromptConfig,
    chat: bool,
    templates: Sequence[str],
    paraphrases: Mapping[str, Sequence[Paraphrase]],
) -> list[Wording]:
    """Return all other ways to ask: a wording for each template, then the first paraphrases, the second ones, …

    Args:
        items: all items, in the run's own words.
        scorer: resolved.
        prompt: the run's own.
        chat: whether the run's own prompt went through the chat template; other templates then do too.
        templates: `study.templates`.
        paraphrases: by id; those that items bring themselves come after.

    Raises:
        ConfigError: there is no other way to ask, templates are given that no item is filled into, or paraphrases of
            unknown items only.
    """
    filled = tuple(replace(item, paraphrases=()) for item in items if item.kind in FILLED)
    kinds = ", ".join(sorted({item.kind for item in items}))
    if templates and not filled:
        raise ConfigError(f"study.templates: no item is filled into a template; the items are of kind {kinds}")
    for template in templates:
        if scorer == "letter_logit" and "{options}" not in template:
            raise ConfigError(f"study.templates: letter_logit asks for a letter, but {template!r} shows no {{options}}")
    if paraphrases and not any(item.id in paraphrases for item in items):
        raise ConfigError(f"study.paraphrases: no id is that of an item, e.g. {next(iter(paraphrases))!r}")
    chosen = templates or _phrasings(scorer, chat)
    found = [
        Wording(f"template {number}", prompt.model_copy(update={"template": text, "chat": chat}), filled)
        for number, text in enumerate(chosen, 1)
        if filled
    ]
    by_rank: dict[int, list[Item]] = {}
    for item in items:
        own = [Paraphrase(_OWN_KEY[item.kind], text) for text in item.paraphrases]
        for rank, one in enumerate([*paraphrases.get(item.id, ()), *own], 1):
            by_rank.setdefault(rank, []).append(reworded(item, one))
    found += [Wording(f"paraphrase {rank}", prompt, tuple(own)) for rank, own in sorted(by_rank.items())]
    if not found:
        raise ConfigError(
            f"the items are of kind {kinds}, which no template is for, and there are no paraphrases of them; give "
            "study.paraphrases=FILE.jsonl (id and question, prompt or cloze), or a column paraphrases"
        )
    return found


def _phrasings(scorer: str, chat: bool) -> Sequence[str]:
    if scorer != "letter_logit":
        return PHRASINGS
    return [text if chat else text + LETTER_END for text in LETTER_PHRASINGS]
