"""Prompts for a proxy mastered set: those of a user's file, or none, where the model writes the questions."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cpl_ray.cells import RowError, as_text, is_missing, plain
from cpl_ray.config import Config
from cpl_ray.encoding import GENERATING
from cpl_ray.errors import ConfigError, DataError
from cpl_ray.files import SUFFIXES, RawRow, read_file
from cpl_ray.proxy_items import Seed

PER_ITEM = 5
"""Prompts tried for each item wanted, where nothing is said."""


def check_scorer(config: Config) -> None:
    """Refuse a scorer that could not ask the proposed items.

    Raises:
        ConfigError: it compares choices.
    """
    if config.assess.scorer not in ("auto", *GENERATING):
        raise ConfigError(
            f"assess.scorer: {config.assess.scorer!r} compares choices, and proposed items have free answers; "
            f"valid for `cpl propose` are auto, {', '.join(GENERATING)}"
        )


def seeds_of(config: Config) -> tuple[list[Seed], list[str]]:
    """Return the seeds to try, in order, and why rows of `propose.prompts` cannot be used.

    Raises:
        ConfigError: there is no such file, or it has no readable format.
        DataError: the file cannot be read, or no row of it can be used.
    """
    propose = config.propose
    if propose.prompts is None:
        number = propose.candidates or PER_ITEM * propose.items
        return [Seed(f"proposed-{index:06d}") for index in range(1, number + 1)], []
    path = Path(propose.prompts).expanduser()
    seeds: list[Seed] = []
    refused: list[str] = []
    for row in _rows(path, config.data.columns):
        if len(seeds) == propose.candidates:
            break
        try:
            seeds.append(_seed(row, config.data.columns))
        except RowError as error:
            refused.append(f"{path} row {row.number}: {error}")
    if not seeds:
        first = f"; the first: {refused[0]}" if refused else ""
        raise DataError(f"propose.prompts: no row of {path} is a prompt{first}")
    return seeds, refused


def _rows(path: Path, columns: Mapping[str, str]) -> Iterator[RawRow]:
    suffix = path.suffix.lower()
    if not path.is_file():
        raise ConfigError(f"propose.prompts: there is no file {str(path)!r} (looked in {Path.cwd()})")
    if suffix not in (".txt", *SUFFIXES):
        valid = ", ".join((".txt", *SUFFIXES))
        raise ConfigError(f"propose.prompts: {str(path)!r} has no readable format; valid suffixes are {valid}")
    if suffix != ".txt":
        yield from read_file(path, {columns.get(name, name) for name in ("question", "prompt")})
        return
    try:
        text = path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"propose.prompts: {path} cannot be read as UTF-8 text: {error}") from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield RawRow(number, {columns.get("question", "question"): line})


def _seed(row: RawRow, columns: Mapping[str, str]) -> Seed:
    """Read one row: `prompt` as it is, else `question`.

    Raises:
        RowError: it has neither, or cannot be decoded.
    """
    if row.reason is not None:
        raise RowError(row.reason)
    if not isinstance(row.values, Mapping):
        raise RowError(f"the row is of type {type(row.values).__name__}, not an object with columns")
    cells: dict[str, Any] = {name: plain(row.values.get(columns.get(name, name))) for name in ("prompt", "question")}
    name = f"proposed-{row.number:06d}"
    # white space before an answer belongs to the answer
    if not is_missing(cells["prompt"]):
        return Seed(name, prompt=as_text(cells["prompt"], "prompt").rstrip())
    if not is_missing(cells["question"]):
        return Seed(name, question=as_text(cells["question"], "question").strip())
    raise RowError("the row has neither question nor prompt")
