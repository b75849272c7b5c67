"""Which elements of which parameter lie where in the flat tensors of a rank's optimizer, and the model's layers."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from cpl_ray.errors import LayoutError

_KINDS_OF_TENSOR = ("weight", "bias")


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of one parameter's elements inside a flat tensor."""

    name: str
    shape: tuple[int, ...]
    """Of the whole parameter."""
    start: int
    """Index of the first element, in the parameter flattened row by row."""
    part: slice
    """Where the elements lie in the flat tensor."""

    @property
    def numel(self) -> int:
        """Number of elements here."""
        return self.part.stop - self.part.start


@dataclass(frozen=True)
class Layout:
    """The trainable parameters of the model, and which of their elements this rank's optimizer holds."""

    shapes: dict[str, tuple[int, ...]]
    """Every trainable parameter in the model's order, tied ones once; the same on every rank."""
    flats: tuple[tuple[Piece, ...], ...]
    """For each flat tensor, in the optimizer's order, its pieces in their order; padding is in none."""

    def check(self, sizes: Sequence[int]) -> None:
        """Compare with the sizes of the flat tensors.

        Raises:
            LayoutError: another number of tensors; pieces that overlap, or reach beyond the tensor or the parameter.
        """
        if len(sizes) != len(self.flats):
            raise LayoutError(f"the optimizer holds {len(sizes)} flat tensors, the layout describes {len(self.flats)}")
        for size, pieces in zip(sizes, self.flats, strict=True):
            end = 0
            for piece in pieces:
                whole = math.prod(self.shapes.get(piece.name, (0,)))
                if not end <= piece.part.start < piece.part.stop <= size or piece.start + piece.numel > whole:
                    raise LayoutError(f"{piece} does not fit: {end} of {size} elements are taken, {whole} are its own")
                end = piece.part.stop


def whole_layout(params: Iterable[tuple[str, Tensor]], tensors: Sequence[Tensor]) -> Layout:
    """Return the layout of an optimizer over whole parameters: plain torch and ZeRO stage 0.

    Args:
        params: names and trainable parameters of the model.
        tensors: the optimizer's parameters in its order.

    Raises:
        LayoutError: the optimizer holds a tensor that is no parameter of the model.
    """
    names = {id(param): name for name, param in params}
    shapes = {names[id(param)]: tuple(param.shape) for param in tensors if id(param) in names}
    foreign = [tuple(tensor.shape) for tensor in tensors if id(tensor) not in names]
    if foreign:
        raise LayoutError(f"the optimizer holds tensors that are no parameters of the model, of shapes {foreign}")
    flats = tuple(
        (Piece(names[id(p)], shapes[names[id(p)]], 0, slice(0, p.numel())),) if p.numel() else () for p in tensors
    )
    return Layout({name: shapes[name] for name in names.values() if name in shapes}, flats)


def layer_names(params: Sequence[str]) -> dict[str, str]:
    """Return the layer of each parameter, by name: short and sortable.

    Transformer blocks are `layer.00`, `layer.01`, ... by the number in `model.layers.3.…` or `transformer.h.3.…`.
    Everything else goes by its module: `embed_tokens`, `norm`, `lm_head`. Where two modules would share a name, and for
    further stacks of numbered modules than the longest, it is the whole path.
    """
    places = {name: block_of(name) for name in params}
    stacks: dict[str, set[int]] = {}
    for stack, number in (place for place in places.values() if place is not None):
        stacks.setdefault(stack, set()).add(number)
    main = max(stacks, key=lambda stack: len(stacks[stack]), default=None)
    modules = {name: module_of(name) for name, place in places.items() if place is None}
    shared = Counter(path.rpartition(".")[2] for path in set(modules.values()))
    layers = {}
    for name, place in places.items():
        if place is None:
            short = modules[name].rpartition(".")[2]
            layers[name] = short if shared[short] == 1 else modules[name]
        else:
            stack, number = place
            width = max(2, len(str(max(stacks[stack]))))
            layers[name] = f"{'layer' if stack == main else stack}.{number:0{width}}"
    return layers


def block_of(name: str) -> tuple[str, int] | None:
    """Return the path of the outermost numbered stack and the number in it, or None."""
    parts = name.split(".")
    for index, part in enumerate(parts):
        if index and part.isdecimal():
            return ".".join(parts[:index]), int(part)
    return None


def module_of(name: str) -> str:
    """Return the path of the module that a parameter belongs to; the name itself if it is no weight or bias."""
    path, _, last = name.rpartition(".")
    return path if path and last in _KINDS_OF_TENSOR else name
