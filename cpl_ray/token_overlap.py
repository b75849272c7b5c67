"""Token F1 of a free answer, as SQuAD defines it and MLQA extends it to other scripts: no tensors, no model.

Rajpurkar et al. 2016 (arXiv 1606.05250, section 6.1): precision and recall over the bag of tokens of answer and target,
F1 their harmonic mean, the best over all accepted answers. Lewis et al. 2020 (arXiv 1910.07475, section 3.3): Unicode
punctuation, and characters for tokens where a script writes no spaces.
"""

import string
import unicodedata
from collections import Counter
from collections.abc import Iterable

ARTICLES = frozenset({"a", "an", "the"})
_SPACELESS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x30FF),  # CJK radicals and marks, Hiragana, Katakana
    (0x31F0, 0x31FF),  # Katakana extensions
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x323AF),
)


def answer_tokens(text: str) -> list[str]:
    """Return the tokens that are compared.

    The text is folded by NFKC and case, so that composed and decomposed, full-width and half-width forms are equal;
    invisible format characters (direction marks, joiners) go, punctuation (Unicode P*, and ASCII's `$+<=>^`|~`) goes,
    then the English articles. Words end at white space; a letter of a script without spaces (Han, kana, Thai, Lao,
    Khmer, Myanmar, Tibetan) is a token of its own, with the marks that belong to it. Where nothing but punctuation or
    articles stands, these are kept ("A" is an answer, and so is "+").
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    folded = "".join(character for character in folded if unicodedata.category(character) != "Cf")
    words = _split("".join(character for character in folded if not _punctuation(character))) or _split(folded)
    return [word for word in words if word not in ARTICLES] or words


def token_f1(text: str, target: str) -> float:
    """Return the F1 in [0, 1] of one answer against one target: 2·precision·recall / (precision + recall)."""
    given, wanted = answer_tokens(text), answer_tokens(target)
    if not given or not wanted:
        return float(given == wanted)
    shared = (Counter(given) & Counter(wanted)).total()
    return 2.0 * shared / (len(given) + len(wanted))


def best_f1(text: str, targets: Iterable[str], *, whole: bool = False) -> float:
    """Return the highest F1 of generated text over the accepted answers.

    Of the text as many lines count as the accepted answer has: a model that was not taught to end goes on with the
    next question, which is no part of its answer. With `whole` all of the text counts.
    """
    return max(token_f1(text if whole else first_lines(text, num_lines(target)), target) for target in targets)


def num_lines(text: str) -> int:
    """Return the number of lines that hold something."""
    return sum(bool(line.strip()) for line in text.splitlines())


def first_lines(text: str, count: int) -> str:
    """Return the first `count` lines that hold something."""
    return "\n".join([line for line in text.splitlines() if line.strip()][:count])


def _punctuation(character: str) -> bool:
    return unicodedata.category(character)[0] == "P" or character in string.punctuation


def _spaceless(character: str) -> bool:
    point = ord(character)
    return any(low <= point <= high for low, high in _SPACELESS)


def _split(text: str) -> list[str]:
    tokens: list[str] = []
    before = "space"
    for character in text:
        if character.isspace():
            before = "space"
        elif unicodedata.category(character)[0] == "M" and before != "space":
            tokens[-1] += character
        elif _spaceless(character):
            tokens.append(character)
            before = "letter"
        elif before == "word":
            tokens[-1] += character
        else:
            tokens.append(character)
            before = "word"
    return tokens
