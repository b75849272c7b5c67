"""What the optimizer keeps of the mastered gradient g_M between a capture and the updates that use it."""

import torch
from torch import Tensor

CONFLICT_BIT = 4  # added to a stored sign (-1, 0, +1) when the parameter's previous class was conflicting


class SignState:
    """sign(g_M) as int8, 1 byte per element; the previous class rides in a spare bit.

    One bit would not do: g_M is exactly zero for embedding rows absent from the mastered batch, and those may move.
    """

    def __init__(self, like: Tensor) -> None:
        self.code = torch.zeros(like.numel(), dtype=torch.int8, device=like.device)
        self.captured = False
        self.classified = False

    def capture(self, gradient: Tensor) -> None:
        """Store sign(g_M) of a flat `[num_params]` gradient; the previous classes stay."""
        self.code.copy_(torch.sign(gradient).to(torch.int8) + self._conflict_bits(self.code))
        self.captured = True

    def sign(self, part: slice) -> Tensor:
        """Return sign(g_M) of a slice, int8 in {-1, 0, +1}."""
        return ((self.code[part] + 1) & 3) - 1

    def values(self, part: slice) -> Tensor | None:
        """Return g_M of a slice, or None: the magnitude is not kept."""
        return None

    def classify(self, part: slice, conflict: Tensor) -> Tensor:
        """Remember the classes (bool, True = conflicting) of a slice; return how many differ from the previous mask."""
        code = self.code[part]
        flips = ((code >= CONFLICT_BIT - 1) != conflict).sum()
        code.copy_(self.sign(part) + conflict.to(torch.int8) * CONFLICT_BIT)
        return flips

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors a checkpoint must hold."""
        return {"code": self.code}

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


MASTERED_STATES = {"sign": SignState, "full": FullState}
