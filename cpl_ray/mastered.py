"""What the optimizer keeps of the mastered gradient g_M between a capture and the updates that use it."""

import torch
from torch import Tensor

from cpl_ray.bits import pack, pack_signs, unpack

CHUNK = 1 << 18  # elements that are worked on at once: bounds scratch memory and keeps them in cache
GROUP = 64
"""Elements of one word of a plane."""
PLUS, MINUS, CONFLICT = range(3)


class SignState:
    """sign(g_M) and the class of the last mask in three planes of one bit per element, 3/8 byte in all.

    One bit would not do for the sign: g_M is exactly zero for embedding rows absent from the mastered batch, and those
    may move. A step reads all planes and writes only that of the classes. Where flips are marked there is a fourth.

    Attributes:
        planes: uint8 `[3, 8 * ceil(num_params / 64)]`: where g_M is positive, where negative, what was conflicting.
            Element i is bit i % 8 of byte i // 8; bits after the last element are 0.
    """

    def __init__(self, like: Tensor) -> None:
        self.numel = like.numel()
        self.planes = torch.zeros(3, 8 * -(-self.numel // GROUP), dtype=torch.uint8, device=like.device)
        self.captured = False
        self.classified = False
        self._flips: Tensor | None = None  # the plane of those that the last mask has turned
        self._marked = False  # whether that plane is of the last mask

    def capture(self, gradient: Tensor) -> None:
        """Store sign(g_M) of a flat `[num_params]` gradient; the previous classes stay."""
        for start in range(0, gradient.numel(), CHUNK):
            part = slice(start, min(start + CHUNK, gradient.numel()))
            self.set_sign(part, gradient[part])
        self.captured = True

    def set_sign(self, part: slice, values: Tensor) -> None:
        """Store the sign of `values` for a slice (see `_bytes`); its previous classes stay, marks of flips go."""
        self._marked, place = False, self._bytes(part)
        self.planes[PLUS, place], self.planes[MINUS, place] = pack_signs(torch.sign(values).to(torch.int8))

    def sign(self, part: slice) -> Tensor:
        """Return sign(g_M) of a slice, int8 in {-1, 0, +1}."""
        plus, minus = (self._bits(self.planes[plane], part).view(torch.int8) for plane in (PLUS, MINUS))
        return plus - minus

    def conflicting(self, part: slice) -> Tensor:
        """Return the classes of the last mask for a slice, bool, True = conflicting."""
        return self._bits(self.planes[CONFLICT], part)

    def values(self, part: slice) -> Tensor | None:
        """Return g_M of a slice, or None: the magnitude is not kept."""
        return None

    def classify(self, part: slice, conflict: Tensor, *, mark_flips: bool = False) -> Tensor:
        """Remember the classes (bool, True = conflicting) of a slice; return how many differ from the previous mask.

        With `mark_flips` these elements are marked until the next mask or capture, for `count`.
        """
        flipped, place = self.conflicting(part) != conflict, self._bytes(part)
        self.planes[CONFLICT, place] = pack(conflict)
        flips = self.flips(mark_flips)
        if flips is not None:
            flips[place] = pack(flipped)
        return flipped.count_nonzero()

    def flips(self, marked: bool) -> Tensor | None:
        """Return the plane that a mask must write its flips to; None, and no element counts as marked, if it need not.

        Args:
            marked: whether the mask that now begins marks them.
        """
        self._marked = marked
        if not marked:
            self._flips = None
        elif self._flips is None:
            self._flips = torch.zeros_like(self.planes[CONFLICT])
        return self._flips

    def count(self, part: slice) -> Tensor:
        """Return how many elements of a slice are conflicting, and how many are marked as flipped: int64 `[2]`."""
        conflicting = self.conflicting(part).count_nonzero()
        marked = self._flips if self._marked else None
        flipped = torch.zeros_like(conflicting) if marked is None else self._bits(marked, part).count_nonzero()
        return torch.stack([conflicting, flipped])

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors a checkpoint must hold."""
        return {"planes": self.planes}

    def restored(self) -> None:
        """Note that `tensors` were read from a checkpoint."""
        self.captured = self.classified = True

    def has_bits_beyond(self) -> bool:
        """Tell whether a bit after the last element is set: the planes are those of more elements."""
        last = self.numel // 8
        return any(bool(unpack(plane[last:])[self.numel - 8 * last :].any()) for plane in self.planes)

    def _bits(self, plane: Tensor, part: slice) -> Tensor:
        start, stop, _ = part.indices(self.numel)
        first = start // 8
        return unpack(plane[first : -(-stop // 8)])[start - 8 * first : stop - 8 * first]

    def _bytes(self, part: slice) -> slice:
        """Return where a slice lies in a plane; it must start at a multiple of 8, and end at one or at the end."""
        start, stop, _ = part.indices(self.numel)
        if start % 8 or (stop % 8 and stop != self.numel):
            raise ValueError(f"elements {start} to {stop} of {self.numel} do not fill whole bytes")
        return slice(start // 8, -(-stop // 8))


class FullState(SignState):
    """All of g_M, 4 bytes per element more: adds conflict mass and predicted change to what `SignState` can tell."""

    def __init__(self, like: Tensor) -> None:
        super().__init__(like)
        self.gradient = torch.zeros(like.numel(), dtype=like.dtype, device=like.device)

    def capture(self, gradient: Tensor) -> None:
        super().capture(gradient)
        self.gradient.copy_(gradient)

    def values(self, part: slice) -> Tensor:
        return self.gradient[part]

    def tensors(self) -> dict[str, Tensor]:
        return {**super().tensors(), "gradient": self.gradient}


class GradientState:
    """g_M alone, 4 bytes per element, for methods that compute with it instead of comparing signs."""

    def __init__(self, like: Tensor) -> None:
        self.gradient = torch.zeros(like.numel(), dtype=like.dtype, device=like.device)
        self.captured = False

    def capture(self, gradient: Tensor) -> None:
        """Store a flat `[num_params]` gradient in place of the one before."""
        self.gradient.copy_(gradient)
        self.captured = True

    def sign(self, part: slice) -> Tensor:
        """Return sign(g_M) of a slice."""
        return torch.sign(self.gradient[part])

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors a checkpoint must hold."""
        return {"gradient": self.gradient}

    def restored(self) -> None:
        """Note that `tensors` were read from a checkpoint."""
        self.captured = True
