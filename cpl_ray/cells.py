"""Single values of a row: what counts as missing, as text, as a list, and which choice an answer names.

Rows come from JSON, CSV, Parquet and `datasets`, so a cell may be a number, a numpy array, NaN, bytes or JSON inside a
string. Everything here either returns a clean value or raises `RowError` with a reason a person can act on.
"""

import ast
import json
import math
import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

LETTERS = string.ascii_uppercase
"""Option letters; an item cannot have more choices than there are letters."""

_LETTER_ANSWER = re.compile(r"\(?([A-Za-z])[).:]?")
_ENDS = " .,:;!?…_\"'`“”‘’«»。、।॥؟،؛¿¡「」"


class RowError(ValueError):
    """One row or item that cannot be used; the message is the reason and names the offending value."""


def shown(value: object, limit: int = 60) -> str:
    """Return `repr(value)` cut to `limit` characters, for messages."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of more than 4,300 digits, a very deep list
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def plain(value: Any) -> Any:
    """Turn numpy scalars and arrays into Python values and bytes into text; leave the rest alone.

    Raises:
        RowError: bytes that are not UTF-8.
    """
    if value is None or type(value) is str:
        return value
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RowError(f"not valid UTF-8: {shown(value)} (byte {error.start + 1})") from None
    return value


def is_missing(value: Any) -> bool:
    """Say whether a cell is empty: None, NaN, or text of white space only."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and not value.strip())


def as_text(value: Any, name: str, *, numbers: bool = False) -> str:
    """Return a cell as text, unchanged if it is text already.

    Args:
        value: The cell, already `plain`.
        name: What it is called in messages.
        numbers: Accept integers and finite floats and write them out.

    Raises:
        RowError: missing, not text, or text that UTF-8 cannot hold (half of a surrogate pair).
    """
    if is_missing(value):
        raise RowError(f"{name} is missing or empty")
    whole = isinstance(value, int) and not isinstance(value, bool)  # also one that no float can hold
    if numbers and (whole or (isinstance(value, float) and math.isfinite(value))):
        try:
            return str(value)
        except ValueError:  # more digits than Python prints
            raise RowError(f"{name} is a number with too many digits") from None
    if not isinstance(value, str):
        raise RowError(f"{name} is of type {type(value).__name__}, not text: {shown(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError(f"{name} is not valid Unicode at character {error.start + 1}: {shown(value)}") from None
    return str(value)  # numpy strings become plain ones


def as_sequence(value: Any, name: str) -> Any:
    """Return a list or mapping cell; text is read as JSON (or as a Python literal, which `DataFrame.to_csv` writes).

    Raises:
        RowError: missing, or text that holds neither a list nor an object.
    """
    if is_missing(value):
        raise RowError(f"{name} is missing or empty")
    if not isinstance(value, str):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            parsed = parse(value.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if isinstance(parsed, list | tuple | dict):
            return parsed
    raise RowError(f"{name} is text but not a JSON list: {shown(value)}")


def as_choices(value: Any) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """Read the `choices` cell: a list, `{"text": [...], "label": [...]}` (ARC, CommonsenseQA), or either as JSON text.

    Returns:
        The choices, the row's own labels (empty if it has none), and whether any choice was given as a number.

    Raises:
        RowError: not such a list, fewer than 2 or more than 26 choices, a missing choice, labels that do not fit.
    """
    cell = as_sequence(value, "choices")
    labels: Sequence[Any] = ()
    if isinstance(cell, Mapping):
        texts = plain(cell.get("text"))
        labels = plain(cell.get("label"))
        labels = () if labels is None else labels
        if not isinstance(texts, list | tuple) or not isinstance(labels, list | tuple):
            raise RowError(f"choices is an object without the lists 'text' and 'label': {shown(cell)}")
        if labels and len(labels) != len(texts):
            raise RowError(f"choices has {len(texts)} texts but {len(labels)} labels")
        cell = texts
    if not isinstance(cell, list | tuple):
        raise RowError(f"choices is of type {type(cell).__name__}, not a list: {shown(cell)}")
    if not 2 <= len(cell) <= len(LETTERS):
        raise RowError(f"choices has {len(cell)} entries; 2 to {len(LETTERS)} are possible")
    values = [plain(entry) for entry in cell]
    texts = tuple(
        str(entry) if isinstance(entry, bool) else as_text(entry, f"choice {LETTERS[i]}", numbers=True)
        for i, entry in enumerate(values)
    )
    own_labels = tuple(as_text(plain(label), "choice label", numbers=True).strip() for label in labels)
    return texts, own_labels, any(not isinstance(entry, str) for entry in values)


def answer_index(value: Any, choices: Sequence[str], labels: Sequence[str] = (), *, numeric: bool = False) -> int:
    """Find the choice an answer names: a 0-based index, a letter, one of the row's own labels, or the choice's text.

    An own label wins. Otherwise an answer with two readings that disagree ("2" as an index and as a text) is an error,
    because a wrong guess would silently teach wrong answers.

    Args:
        value: The answer cell, already `plain`.
        choices: The choice texts.
        labels: The row's own labels, one per choice, or none.
        numeric: The choices were given as numbers, so a number may also be meant as a choice's text.

    Returns:
        0-based index into `choices`.

    Raises:
        RowError: missing, out of range, not among the choices, ambiguous, or a text that two choices share.
    """
    if is_missing(value):
        raise RowError("answer is missing or empty")
    readings = _readings(value, choices, labels, numeric=numeric)
    if not readings:
        last = len(choices) - 1
        raise RowError(
            f"answer {shown(value)} is no index 0..{last}, no letter A..{LETTERS[last]} and no text of the choices"
        )
    if len(set(readings.values())) > 1:
        named = " and ".join(f"the {kind} of choice {LETTERS[index]}" for kind, index in readings.items())
        raise RowError(f"answer {shown(value)} is ambiguous: {named}")
    return next(iter(readings.values()))


def _readings(value: Any, choices: Sequence[str], labels: Sequence[str], *, numeric: bool) -> dict[str, int]:
    """Return every possible meaning of an answer as kind -> index."""
    readings: dict[str, int] = {}
    if isinstance(value, bool):
        text = str(value)
    elif isinstance(value, int | float):
        if value in range(len(choices)):  # 2.0 too: integer columns with gaps arrive as floats
            readings["index"] = int(value)
        text = as_text(value, "answer", numbers=True) if numeric else ""
    elif isinstance(value, str):
        text = as_text(value, "answer").strip()
        if labels.count(text) == 1:
            return {"label": labels.index(text)}
        if text.isascii() and text.isdigit() and len(text) < 3 and int(text) < len(choices):
            readings["index"] = int(text)
        letter = _LETTER_ANSWER.fullmatch(text)
        if letter and LETTERS.index(letter[1].upper()) < len(choices):
            readings["letter"] = LETTERS.index(letter[1].upper())
    else:
        raise RowError(f"answer is of type {type(value).__name__}, not an index, letter or text: {shown(value)}")
    same = [i for i, choice in enumerate(choices) if text and choice.strip() == text]
    if not same and not readings and text:
        same = [i for i, choice in enumerate(choices) if normalised(choice) == normalised(text)]
    if len(same) > 1 and not readings:
        raise RowError(f"answer {shown(value)} stands among the choices {len(same)} times; name it by index or letter")
    if same and not set(same) & set(readings.values()):
        readings["text"] = same[0]
    return readings


def normalised(text: str) -> str:
    """Fold what does not change a question: Unicode form, case, runs of white space, sentence marks at the ends.

    Characters that are not seen (direction marks, joiners, a byte-order mark) do not count either.
    """
    if text.isascii():  # the two forms of Unicode change nothing there
        folded = text.lower()
    else:
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    if not folded.isascii():
        folded = "".join(character for character in folded if unicodedata.category(character) != "Cf")
    folded = " ".join(folded.split())
    # "C#" and "C" or "5-" and "5" stay different: only sentence marks, quotes and blanks to fill go
    return folded.strip(_ENDS) or folded
