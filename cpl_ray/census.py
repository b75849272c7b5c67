"""The parameters of a model, counted: by kind, by what is trained, and as ZeRO cuts them."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

_KINDS = (
    ("adapter", ("lora_", ".delta", ".left", ".right")),
    ("vision", ("vision", "visual", "multi_modal_projector")),
    ("head", ("lm_head", "embed_out")),
    ("embedding", ("embed", "wte", "wpe")),
    ("norm", ("norm", ".ln_")),
    ("attention", ("attn", "attention")),
    ("feed-forward", ("mlp", "feed_forward", "ffn", "expert")),
)
KINDS = ("embedding", "attention", "feed-forward", "norm", "head", "vision", "adapter", "other")


@dataclass(frozen=True, slots=True)
class Weight:
    """One parameter; tied ones stand once."""

    name: str
    numel: int
    trainable: bool
    matrix: bool = True
    """Whether it has two dimensions or more: its elements are multiplied with every token."""

    @property
    def kind(self) -> str:
        """Return which of `KINDS` it is, by its name."""
        return next((kind for kind, parts in _KINDS if any(part in self.name for part in parts)), "other")


@dataclass(frozen=True)
class Census:
    """All parameters of a model."""

    weights: tuple[Weight, ...]
    tied: bool
    """Whether the output head is the embedding."""

    @cached_property
    def total(self) -> int:
        """Number of elements."""
        return sum(weight.numel for weight in self.weights)

    @cached_property
    def trainable(self) -> int:
        """Number of elements that are trained."""
        return sum(weight.numel for weight in self._trained())

    @cached_property
    def largest(self) -> int:
        """Elements of the largest trained parameter."""
        return max(weight.numel for weight in self._trained())

    def by_kind(self) -> dict[str, int]:
        """Return the elements of each kind that the model has."""
        counts = {kind: sum(weight.numel for weight in self.weights if weight.kind == kind) for kind in KINDS}
        return {kind: count for kind, count in counts.items() if count}

    def matrices(self, *, trained: bool = False) -> int:
        """Return the elements of matrices that every token is multiplied with: no embedding, head, vision or norm.

        Args:
            trained: count those that are trained only.
        """
        apart = ("embedding", "head", "vision", "norm")
        return sum(
            weight.numel
            for weight in self.weights
            if weight.matrix and weight.kind not in apart and (weight.trainable or not trained)
        )

    @property
    def head(self) -> int:
        """Elements of the output head, its own or the embedding that it shares; hidden size times vocabulary."""
        kind = "embedding" if self.tied else "head"
        return max((weight.numel for weight in self.weights if weight.kind == kind), default=0)

    def group(self, world_size: int) -> int:
        """Return the elements of ZeRO 1's and 2's flat group: the trained ones, padded to twice the world size."""
        multiple = 2 * world_size  # DeepSpeed aligns the start of every rank's part to two elements
        return -(-self.trainable // multiple) * multiple

    def shards(self, world_size: int, *, trained: bool = True) -> int:
        """Return the elements that each rank holds under ZeRO 3, which cuts and pads every parameter on its own."""
        return sum(-(-weight.numel // world_size) for weight in self.weights if weight.trainable or not trained)

    def small(self, threshold: int) -> int:
        """Return the elements of parameters below ZeRO 3's threshold, which every rank keeps whole once used."""
        return sum(weight.numel for weight in self.weights if weight.numel < threshold)

    def owned(self, world_size: int) -> int:
        """Return the elements of the whole parameters that reach into one rank's part under ZeRO 2, on the worst rank.

        A parameter on the border of two parts counts for both: DeepSpeed copies its gradient whole.
        """
        size = self.group(world_size) // world_size
        totals = [0] * world_size
        start = 0
        for weight in self._trained():
            for rank in range(start // size, min((start + weight.numel - 1) // size, world_size - 1) + 1):
                totals[rank] += weight.numel
            start += weight.numel
        return max(totals)

    def _trained(self) -> Iterable[Weight]:
        return (weight for weight in self.weights if weight.trainable)
