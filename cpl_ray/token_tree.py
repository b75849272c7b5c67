"""Token sequences as a tree in which a common beginning stands once, and trees of bounded size for one pass each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

Ids = tuple[int, ...]

MIN_TOKENS = 512
"""Tokens up to which a tree grows whatever the length of its sequences: enough to keep a processor busy, few enough
that attention between the branches, which the mask then throws away, costs little."""

SEQUENCES_PER_ROW = 4
"""Sequences in a tree for each row of tokens that it may cost."""


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
    longest: int = 0
    """Tokens of the longest sequence."""
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
        self.longest = max(self.longest, len(ids))


def pack(groups: Sequence[Sequence[Ids]], max_rows: int) -> Iterator[TokenTree]:
    """Put sequences into as few trees as their bounds allow.

    A tree costs no more memory than `max_rows` sequences as padded rows: it has no more tokens, and at most
    `SEQUENCES_PER_ROW` times as many ends, whose logits are kept. It has at most `MIN_TOKENS` tokens, or twice its
    longest sequence where that is more. A group stays together if it fits; neighbours in the order of their tokens come
    together, so that what groups have in common (a system prompt, examples) stands once too.

    Args:
        groups: sequences that have much in common, the choices of an item; no sequence occurs twice.
        max_rows: at least 1.

    Yields:
        The trees, each with at least one sequence.
    """
    tree = TokenTree()
    for group in sorted(sorted(group) for group in groups if group):
        if tree.paths and not _fits(tree, group, max_rows):
            yield tree
            tree = TokenTree()
        for ids in group:
            if tree.paths and not _fits(tree, [ids], max_rows):
                yield tree
                tree = TokenTree()
            tree.add(ids)
    if tree.paths:
        yield tree


def _fits(tree: TokenTree, new: Sequence[Ids], max_rows: int) -> bool:
    """Tell whether a tree has room for sorted sequences; the last one in it is their neighbour."""
    before, num_tokens = next(reversed(tree.paths)), len(tree.tokens)
    for ids in new:
        num_tokens += len(ids) - _num_common(before, ids)
        before = ids
    longest = max(tree.longest, *map(len, new))
    within = num_tokens <= min(max_rows * longest, max(MIN_TOKENS, 2 * longest))
    return within and len(tree.paths) + len(new) <= SEQUENCES_PER_ROW * max_rows


def _num_common(one: Ids, other: Ids) -> int:
    """Return the number of tokens that two sequences begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
