"""Token sequences as a tree in which a common beginning stands once, and trees of bounded size for one pass each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

Ids = tuple[int, ...]

MIN_TOKENS = 512
"""Tokens up to which a tree grows whatever the length of its sequences: enough to keep a processor busy, few enough
that attention between the branches, which the mask then throws away, costs little."""


@dataclass
class TokenTree:
    """Sequences whose common beginnings are merged; one node per token, every parent before its children."""

    tokens: list[int] = field(default_factory=list)
    """Token of each node."""
    parents: list[int] = field(default_factory=list)
    """Node before each node; -1 where a sequence begins."""
    depths: list[int] = field(default_factory=list)
    """Position of each node in its sequences, from 0."""
    paths: dict[Ids, list[int]] = field(default_factory=dict)
    """Nodes of each sequence, in its order."""
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, ids: Ids) -> None:
        """Add a sequence of token ids."""
        node, path = -1, []
        for depth, token in enumerate(ids):
            child = self._children.setdefault((node, token), len(self.tokens))
            if child == len(self.tokens):
                self.tokens.append(token)
                self.parents.append(node)
                self.depths.append(depth)
            node = child
            path.append(node)
        self.paths[ids] = path


def pack(groups: Sequence[Sequence[Ids]], max_sequences: int) -> Iterator[TokenTree]:
    """Put sequences into as few trees as their bounds allow.

    A tree holds at most `max_sequences` sequences and `MIN_TOKENS` tokens, or twice its longest sequence where that is
    more. A group stays together as far as `max_sequences` allows; neighbours in the order of their tokens come
    together, so that what groups have in common (a system prompt, examples) stands once too.

    Args:
        groups: sequences that have much in common, the choices of an item; no sequence occurs twice.
        max_sequences: at least 1.

    Yields:
        The trees, each with at least one sequence.
    """
    tree = TokenTree()
    for group in sorted(sorted(group) for group in groups if group):
        for start in range(0, len(group), max_sequences):
            some = group[start : start + max_sequences]
            if tree.paths and (len(tree.paths) + len(some) > max_sequences or _too_large(tree, some)):
                yield tree
                tree = TokenTree()
            for ids in some:
                tree.add(ids)
    if tree.paths:
        yield tree


def _too_large(tree: TokenTree, new: Sequence[Ids]) -> bool:
    """Tell whether sorted sequences would make a tree too large; the last one in it is their neighbour."""
    before, num_tokens = next(reversed(tree.paths)), len(tree.tokens)
    for ids in new:
        num_tokens += len(ids) - _num_common(before, ids)
        before = ids
    return num_tokens > max(MIN_TOKENS, 2 * max(map(len, (*tree.paths, *new))))


def _num_common(one: Ids, other: Ids) -> int:
    """Return the number of tokens that two sequences begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
