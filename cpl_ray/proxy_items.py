"""A proxy mastered set: what a prompt, a drafted item and a fit answer are, and which drafts are kept.

No tensors and no model. The idea is pseudorehearsal: Robins 1995, Catastrophic forgetting, rehearsal and
pseudorehearsal (Connection Science 7); for language models that write the questions too, Huang et al. 2024
(arXiv 2403.01244).
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

from cpl_ray.cells import normalised
from cpl_ray.items import Item
from cpl_ray.split import part_sizes, place

_SENTENCE_END = re.compile(r"[.!?…。！？؟।][\"'”’»)\]]*(?=\s)")
_LOOP = re.compile(r"(\D{1,12}?)\1{5,}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Seed:
    """What an item grows from; with neither text the model writes the question."""

    id: str
    question: str | None = None
    """A question, to stand in the template."""
    prompt: str | None = None
    """A whole prompt, used as it is but for white space at its end."""

    def to_json(self) -> str:
        """Return the seed as one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Seed":
        """Rebuild a seed from `to_json`."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class Draft:
    """What the model made of a seed: an item, or the reason why there is none."""

    id: str
    question: str = ""
    prompt: str = ""
    completion: str = ""
    ended: str = ""
    """How the answer ends: `end token`, `line` or `sentence`."""
    reason: str | None = None
    """Why it is rejected; one of few, so that they can be counted."""

    def item(self) -> Item:
        """Return the item as `data.mastered` reads it from its row."""
        return Item(self.id, "completion", prompt=self.prompt, target=self.completion)

    def keys(self) -> set[str]:
        """Return what is asked, normalised as the split does it: the question, and the whole prompt."""
        return {normalised(text) for text in (self.question, self.prompt) if text.strip()}


@dataclass
class Sifted:
    """Drafts that may be scored, and how many of the others there are by reason."""

    kept: list[Draft] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)


def degenerate(text: str) -> bool:
    """Tell whether a text runs in circles.

    It does where up to 12 characters that are no digits stand six times or more behind each other, or where fewer than
    half of its runs of three words are different ones.
    """
    words = text.casefold().split()
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return bool(_LOOP.search(text)) or 2 * len(set(runs)) < len(runs)


def flawed(text: str) -> str | None:
    """Return what is wrong with a question or an answer, or None."""
    if not any(character.isalnum() for character in text):
        return "without a letter or digit"
    if "\ufffd" in text:
        return "with half a character"
    return "running in circles" if degenerate(text) else None


def answer_of(text: str, *, stopped: bool, strict: bool, one_line: bool) -> tuple[str, str] | None:
    """Cut the answer out of what the model went on with.

    Args:
        text: the continuation, with the white space it begins with.
        stopped: the end token came after it.
        strict: the end token is part of the answer (`data.append_eos`): only `stopped` is an end.
        one_line: the first line is the answer, as with models that go on with another question.

    Returns:
        The answer and how it ends: with the `end token`; with its `line`; with its last whole `sentence` (a mark and
        white space after it) where the limit came first. None: it does not end, as a line that ends in a colon.
    """
    body = text.lstrip()
    margin = text[: len(text) - len(body)]
    first, found, _ = body.partition("\n")
    if one_line and found and not strict:
        # after a colon the answer would only begin
        return None if first.rstrip().endswith((":", "：")) else (margin + first.rstrip(), "line")
    if stopped:
        return text.rstrip(), "end token"
    marks = [] if strict else list(_SENTENCE_END.finditer(text))
    return (text[: marks[-1].end()], "sentence") if marks else None


def beginning(text: str) -> str:
    """Return about the first half of a text, up to the end of a word, so that there is something to go on with."""
    half = text[: (len(text) + 1) // 2]
    head, gap, _ = half.rpartition(" ")
    return (head if gap and head.strip() else half).rstrip()


def sift(drafts: Iterable[Draft], taken: set[str]) -> Sifted:
    """Set aside what is rejected, kept out, or asked before.

    Args:
        drafts: in the order in which they are preferred.
        taken: normalised questions that are kept out: those to inject, or to measure forgetting on.
    """
    sifted = Sifted()
    seen: set[str] = set()
    for draft in drafts:
        keys = draft.keys()
        if draft.reason is not None:
            sifted.rejected[draft.reason] += 1
        elif keys & taken:
            sifted.rejected["question kept out"] += 1
        elif keys & seen:
            sifted.rejected["question asked before"] += 1
        else:
            seen |= keys
            sifted.kept.append(draft)
    return sifted


def held_out(drafts: Sequence[Draft], share: float, seed: int) -> tuple[list[Draft], list[Draft]]:
    """Divide into (training, held-out) by seed and prompt, each in the order given; one item is always for training."""
    if not share or len(drafts) < 2:
        return list(drafts), []
    (size,) = part_sizes(len(drafts), [share])
    order = sorted(drafts, key=lambda draft: place(seed, normalised(draft.prompt)))
    chosen = {draft.id for draft in order[:size]}
    return [one for one in drafts if one.id not in chosen], [one for one in drafts if one.id in chosen]
