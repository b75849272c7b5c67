"""What the optimizer keeps of the mastered gradient g_M between a capture and the updates that use it."""

import torch
from torch import Tensor

CHUNK = 1 << 18  # elements that are worked on at once: bounds scratch memory and keeps them in cache
CONFLICT_BIT = 4  # added to a stored sign (-1, 0, +1) when the parameter's previous class was conflicting
FLIP_MARK = 16  # added to a conflicting code, subtracted from a collaborative one, when that class was new


class SignState:
    """sign(g_M) as int8, 1 byte per element; the previous class rides in a spare bit, a flip in another.

    One bit would not do: g_M is exactly zero for embedding rows absent from the mastered batch, and those may move.
    """

    def __init__(self, like: Tensor) -> None:
        self.code = torch.zeros(like.numel(), dtype=torch.int8, device=like.device)
        self.captured = False
        self.classified = False

    def capture(self, gradient: Tensor) -> None:
        """Store sign(g_M) of a flat `[num_params]` gradient; the previous classes stay."""
        for start in range(0, gradient.numel(), CHUNK):
            part = slice(start, min(start + CHUNK, gradient.numel()))
            self.set_sign(part, gradient[part])
        self.captured = True

    def set_sign(self, part: slice, values: Tensor) -> None:
        """Store the sign of `values` for a slice; its previous classes stay."""
        code = self.code[part]
        code.copy_(torch.sign(values).to(torch.int8) + self._conflict_bits(code))

    def sign(self, part: slice) -> Tensor:
        """Return sign(g_M) of a slice, int8 in {-1, 0, +1}."""
        return ((self.code[part] + 1) & 3) - 1

    def values(self, part: slice) -> Tensor | None:
        """Return g_M of a slice, or None: the magnitude is not kept."""
        return None

    def classify(self, part: slice, conflict: Tensor, *, mark_flips: bool = False) -> Tensor:
        """Remember the classes (bool, True = conflicting) of a slice; return how many differ from the previous mask.

        With `mark_flips` these elements are marked until the next mask or capture, for `count`.
        """
        code = self.code[part]
        flipped = (code >= CONFLICT_BIT - 1) != conflict
        bits = conflict.to(torch.int8) * CONFLICT_BIT
        if mark_flips:
            bits += flipped.to(torch.int8) * (bits * (2 * FLIP_MARK // CONFLICT_BIT) - FLIP_MARK)
        code.copy_(self.sign(part) + bits)
        return flipped.sum()

    def count(self, part: slice) -> Tensor:
        """Return how many elements of a slice are conflicting, and how many are marked as flipped: int64 `[2]`."""
        code = self.code[part]
        conflicting, flipped = code >= CONFLICT_BIT - 1, code.abs() > FLIP_MARK // 2
        return torch.stack([conflicting.count_nonzero(), flipped.count_nonzero()])

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors a checkpoint must hold."""
        return {"code": self.code}

    def restored(self) -> None:
        """Note that `tensors` were read from a checkpoint."""
        self.captured = self.classified = True

    @staticmethod
    def _conflict_bits(code: Tensor) -> Tensor:
        return (code >= CONFLICT_BIT - 1).to(torch.int8) * CONFLICT_BIT


class FullState(SignState):
    """All of g_M, 4 more bytes per element: adds conflict mass and predicted change to what `SignState` can tell."""

    def __init__(self, like: Tensor) -> None:
        super().__init__(like)
        self.gradient = torch.zeros(like.numel(), dtype=like.dtype, device=like.device)

    def capture(self, gradient: Tensor) -> None:
        super().capture(gradient)
        self.gradient.copy_(gradient)

    def values(self, part: slice) -> Tensor:
        return self.gradient[part]

    def tensors(self) -> dict[str, Tensor]:
        return {"code": self.code, "gradient": self.gradient}


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
