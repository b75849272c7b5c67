"""The record of one question, and how a row of any supported format becomes one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from cpl_ray.cells import (
    LETTERS,
    RowError,
    answer_index,
    as_choices,
    as_sequence,
    as_text,
    is_missing,
    normalised,
    shown,
)
from cpl_ray.cells import plain as plain_value
from cpl_ray.pictures import MAX_PIXELS, Picture, picture_of

__all__ = ["COLUMNS", "LETTERS", "ROLES", "Item", "Kind", "Message", "RowError", "parse_row"]

Kind = Literal["multiple_choice", "question", "cloze", "completion", "chat"]

COLUMNS = (
    "id",
    "question",
    "choices",
    "answer",
    "answers",
    "cloze",
    "prompt",
    "completion",
    "messages",
    "image",
    "subject",
    "paraphrases",
    "paraphrase",
)
"""Standard column names; `data.columns` maps them to others."""

ROLES = ("system", "developer", "user", "assistant", "tool")
"""Roles a chat message may have."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Item:
    """One question with its answer.

    Attributes:
        id: Unique within a run.
        kind: Which of the text fields make the prompt.
        question: What is asked (multiple choice, question; optional for cloze).
        choices: Options in the row's order; empty where there are none.
        answer: 0-based index into `choices`; None without choices.
        target: The answer's text: the right choice, the completion exactly as given, or the last assistant turn.
        cloze: The statement the answer completes, without trailing white space.
        prompt: The prompt of a prompt/completion pair, exactly as given.
        messages: The turns before the last assistant turn.
        subject: Free group name for reports.
        aliases: Further answers that are accepted besides `target`, which alone is trained.
        image: The picture that the question is about.
        paraphrases: Other wordings of what is asked; never trained, asked by the study `generalisation` only.
    """

    id: str
    kind: Kind
    question: str = ""
    choices: tuple[str, ...] = ()
    answer: int | None = None
    target: str = ""
    cloze: str | None = None
    prompt: str | None = None
    messages: tuple[Message, ...] = ()
    subject: str | None = None
    aliases: tuple[str, ...] = ()
    image: Picture | None = None
    paraphrases: tuple[str, ...] = ()

    @property
    def accepted(self) -> tuple[str, ...]:
        """All accepted answers, the target first."""
        return (self.target, *self.aliases)

    def to_json(self) -> str:
        """Return the item as one line of JSON; `from_json` gives back an equal item."""
        # field by field: asdict copies every text of every item, which costs six times as much
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        values["messages"] = [asdict(message) for message in self.messages]
        values["image"] = None if self.image is None else asdict(self.image)
        # items without these read as those of earlier versions did, and keep their digests
        for name in ("aliases", "image", "paraphrases"):
            if not values[name]:
                del values[name]
        return json.dumps(values, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Item":
        """Rebuild an item from `to_json`.

        Raises:
            RowError: the text is not such a line.
        """
        try:
            values = json.loads(text)
            values["choices"] = tuple(values["choices"])
            values["messages"] = tuple(Message(**message) for message in values["messages"])
            values |= {name: tuple(values.get(name, ())) for name in ("aliases", "paraphrases")}
            values["image"] = Picture(**values["image"]) if values.get("image") else None
            return cls(**values)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise RowError(f"not a stored item ({error}): {text[:60]!r}") from None

    def question_key(self) -> str:
        """Return the normalised text of what is asked; equal keys are the same question for leaks and duplicates.

        The same words about another picture are another question.
        """
        return self._text_key() if self.image is None else f"{self._text_key()}\nimage {self.image.sha256}"

    def _text_key(self) -> str:
        if self.kind == "cloze":
            return normalised(self.cloze or self.question)
        if self.kind == "completion":
            return normalised(self.prompt or "")
        if self.kind == "chat":
            return "\n".join(normalised(turn.content) for turn in self.messages if turn.role != "system")
        return normalised(self.question)


def parse_row(
    row: Mapping[str, Any],
    *,
    format: str,
    columns: Mapping[str, str],
    row_number: int,
    default_id: str | None = None,
    folder: Path | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Item:
    """Make an item of one row.

    Args:
        row: Cell by column name; cells may be numpy values, NaN, bytes, or JSON text where a list is expected.
        format: An item kind, or `auto`: messages -> chat, prompt and completion -> completion, cloze -> cloze,
            question and choices -> multiple choice, question and answer or answers -> question; empty cells do not
            count.
        columns: `standard: yours` for columns that are named differently.
        row_number: 1-based row, for the id of a row that has none when `default_id` is None.
        default_id: The id of a row that has none.
        folder: The data file's folder, below which images lie; None: images only as bytes.
        max_pixels: A larger image is malformed.

    Raises:
        RowError: the row is malformed; the message is the reason. Nothing else is raised, whatever the row holds.
    """
    if not isinstance(row, Mapping):
        raise RowError(f"the row is of type {type(row).__name__}, not an object with columns")
    image = row.get(columns.get("image", "image"))
    cells = {name: plain_value(row.get(columns.get(name, name))) for name in COLUMNS if name != "image"}
    kind: str = _kind(cells, row, columns) if format == "auto" else format
    fallback = default_id if default_id is not None else f"row-{row_number}"
    name = fallback if is_missing(cells["id"]) else as_text(cells["id"], "id", numbers=True).strip()
    subject = None if is_missing(cells["subject"]) else as_text(cells["subject"], "subject", numbers=True)
    item = _parsed(kind, name, cells, columns)
    aliases = () if item.choices or is_missing(cells["answers"]) else _accepted(cells["answers"])
    picture = (
        None if is_missing(image) or (isinstance(image, bytes) and not image) else picture_of(image, folder, max_pixels)
    )
    own = tuple(alias for alias in aliases if alias != item.target)
    return replace(item, subject=subject, image=picture, aliases=own, paraphrases=_paraphrases(cells))


def _parsed(kind: str, name: str, cells: Mapping[str, Any], columns: Mapping[str, str]) -> Item:
    """Make the item of a known kind, without what all kinds may have."""
    if kind == "multiple_choice":
        question = as_text(cells["question"], _label("question", columns))
        choices, answer, target = _choice_answer(cells)
        return Item(name, "multiple_choice", question=question, choices=choices, answer=answer, target=target)
    if kind == "question":
        question = as_text(cells["question"], _label("question", columns))
        return Item(name, "question", question=question, target=_free_answer(cells, columns))
    if kind == "cloze":
        return _cloze(name, cells, columns)
    if kind == "completion":
        prompt = as_text(cells["prompt"], _label("prompt", columns))
        completion = as_text(cells["completion"], _label("completion", columns), numbers=True)
        return Item(name, "completion", prompt=prompt, target=completion)
    if kind == "chat":
        turns, target = _chat(cells["messages"])
        return Item(name, "chat", messages=turns, target=target)
    raise RowError(f"unknown format {kind!r}")


def _free_answer(cells: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    """Read the answer of an item without choices: `answer`, else the first of `answers`."""
    if is_missing(cells["answer"]) and not is_missing(cells["answers"]):
        return _accepted(cells["answers"])[0]
    return as_text(cells["answer"], _label("answer", columns), numbers=True).strip()


def _accepted(cell: Any) -> tuple[str, ...]:
    """Read `answers`: a list of texts, or `{"text": [...]}` as SQuAD has it; each once, in order."""
    given = as_sequence(cell, "answers")
    given = plain_value(given.get("text")) if isinstance(given, Mapping) else given
    if not isinstance(given, list | tuple) or not given:
        raise RowError(f"answers is no list of texts: {shown(cell)}")
    texts = (as_text(plain_value(text), f"answer {number}", numbers=True) for number, text in enumerate(given, 1))
    return tuple(dict.fromkeys(text.strip() for text in texts))


def _paraphrases(cells: Mapping[str, Any]) -> tuple[str, ...]:
    """Read `paraphrases`, a list of texts, or `paraphrase`, one text; each once, in order."""
    cell = cells["paraphrase"] if is_missing(cells["paraphrases"]) else cells["paraphrases"]
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        cell = as_sequence(cell, "paraphrases")
    given = cell if isinstance(cell, list | tuple) else [] if is_missing(cell) else [cell]
    return tuple(dict.fromkeys(as_text(plain_value(text), f"paraphrase {n}") for n, text in enumerate(given, 1)))


def _label(name: str, columns: Mapping[str, str]) -> str:
    """Name a column in a message, with the user's own name for it."""
    return f"{name} (column {columns[name]!r})" if name in columns else name


def _kind(cells: Mapping[str, Any], row: Mapping[str, Any], columns: Mapping[str, str]) -> Kind:
    """Decide the format of a row by the cells that hold something."""
    present = {name for name, value in cells.items() if not is_missing(value)}
    if "messages" in present:
        return "chat"
    if {"prompt", "completion"} <= present:
        return "completion"
    if "cloze" in present:
        return "cloze"
    if {"question", "choices"} <= present:
        return "multiple_choice"
    if "question" in present and present & {"answer", "answers"}:
        return "question"
    found = ", ".join(repr(str(name))[:40] for name in list(row)[:12]) or "none"
    renamed = f" (data.columns: {dict(columns)})" if columns else ""
    raise RowError(
        "no format fits: the row needs messages, or prompt and completion, or cloze and answer, or question,"
        f" answer and optionally choices; its columns are {found}{renamed}"
    )


def _choice_answer(cells: Mapping[str, Any]) -> tuple[tuple[str, ...], int, str]:
    """Read choices and answer: the choices, the 0-based index of the answer, its text."""
    choices, labels, numeric = as_choices(cells["choices"])
    index = answer_index(cells["answer"], choices, labels, numeric=numeric)
    return choices, index, choices[index]


def _cloze(name: str, cells: Mapping[str, Any], columns: Mapping[str, str]) -> Item:
    """Make a cloze item; its choices are optional."""
    # the answer is joined by exactly one space, so one that already stands there would be doubled
    cloze = as_text(cells["cloze"], _label("cloze", columns)).rstrip()
    question = "" if is_missing(cells["question"]) else as_text(cells["question"], _label("question", columns))
    choices: tuple[str, ...] = ()
    answer: int | None = None
    if is_missing(cells["choices"]) or cells["choices"] in ([], "[]"):
        target = _free_answer(cells, columns)
    else:
        choices, answer, target = _choice_answer(cells)
    return Item(name, "cloze", question, choices, answer, target, cloze=cloze)


def _chat(cell: Any) -> tuple[tuple[Message, ...], str]:
    """Read messages: the turns before the answer, and the answer."""
    turns = as_sequence(cell, "messages")
    if not isinstance(turns, Sequence) or isinstance(turns, str):
        raise RowError(f"messages is of type {type(turns).__name__}, not a list of turns")
    messages = tuple(_message(plain_value(turn), number) for number, turn in enumerate(turns, 1))
    if not messages or messages[-1].role != "assistant":
        last = messages[-1].role if messages else "nothing"
        raise RowError(f"messages ends with {last}; the last turn must be the assistant's, it is the answer")
    if not any(message.role == "user" for message in messages):
        raise RowError("messages has no user turn: nothing is asked")
    return messages[:-1], messages[-1].content


def _message(turn: Any, number: int) -> Message:
    """Read one turn."""
    if not isinstance(turn, Mapping):
        raise RowError(f"message {number} is of type {type(turn).__name__}, not an object with role and content")
    role = plain_value(turn.get("role"))
    if role not in ROLES:
        raise RowError(f"message {number} has role {shown(role)}; valid roles are {', '.join(ROLES)}")
    return Message(str(role), as_text(plain_value(turn.get("content")), f"content of message {number}"))
