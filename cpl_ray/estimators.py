"""Estimates of the mastered gradient's sign over several refreshes, each for one more byte per element.

One mastered batch is a noisy sample of M, and between refreshes it is stale: an average or a vote over refreshes sees
more of M at no further pass. The rule then takes the sign of the estimate; all else is as for `SignState`.
"""

import torch
from torch import Tensor

from cpl_ray.mastered import SignState

BLOCK = 1024  # elements that share a maximum: 4 bytes of it for each
CHUNK = 1 << 18  # elements at once: bounds scratch memory; a multiple of BLOCK
LEVELS = 255
STEPS_PER_OCTAVE = 12  # so 255 levels span 21 octaves below the block's maximum (16: too few octaves; docs/log.md)
LARGEST_AVERAGE = 0.97
"""Above 2^(-1 / (2 * STEPS_PER_OCTAVE)) = 0.9715 a decaying average would round back to where it was, for ever."""


class AverageState(SignState):
    """A <- share * A + (1 - share) * g_M over refreshes, A in 8 bits per element; the first capture is A = g_M.

    The sign is in the planes of `SignState`, so all 8 bits hold the magnitude: 0, or one of 255 levels, 12 per octave,
    below the block's maximum (float32, exact). The relative error of a stored value is at most 2.9 %, whatever its
    size; linear steps of the maximum would make zeros of all small values and lose their sign. What is not zero never
    becomes level 0: it keeps its sign.

    Blocks are runs of `BLOCK` elements of the flat tensor, so partitioning changes the average by rounding only.

    Args:
        like: the flat tensor, `[num_params]`.
        share: share of the past that a refresh keeps, in [0, `LARGEST_AVERAGE`].
    """

    def __init__(self, like: Tensor, *, share: float) -> None:
        super().__init__(like)
        self._share = share
        self.magnitude = torch.zeros(like.numel(), dtype=torch.uint8, device=like.device)
        self.maximum = torch.zeros(-(-like.numel() // BLOCK), dtype=torch.float32, device=like.device)

    def capture(self, gradient: Tensor) -> None:
        """Take one refresh's g_M `[num_params]` into the average."""
        for start in range(0, gradient.numel(), CHUNK):
            part = slice(start, min(start + CHUNK, gradient.numel()))
            average = gradient[part].float()
            if self.captured:
                average = self.average(part).mul_(self._share).add_(average, alpha=1 - self._share)
            self._store(part, average)
        self.captured = True

    def average(self, part: slice) -> Tensor:
        """Return A of a slice that starts at a block's begin, float32, a new tensor."""
        level = self.magnitude[part].float()
        scale = torch.exp2((level - LEVELS) / STEPS_PER_OCTAVE) * (level > 0)
        return scale.mul_(self._spread(part)).mul_(self.sign(part))

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors a checkpoint must hold."""
        return {**super().tensors(), "magnitude": self.magnitude, "maximum": self.maximum}

    def _store(self, part: slice, average: Tensor) -> None:
        self.set_sign(part, average)
        size = average.abs()
        blocks = torch.nn.functional.pad(size, (0, -size.numel() % BLOCK)).view(-1, BLOCK)
        first = part.start // BLOCK
        self.maximum[first : first + len(blocks)] = blocks.amax(dim=1)
        # a maximum of 0 has only zeros below it: any divisor but 0 will do
        ratio = size.div(self._spread(part).clamp(min=torch.finfo(torch.float32).tiny))
        level = ratio.log2_().mul_(STEPS_PER_OCTAVE).add_(LEVELS).round_().clamp_(1, LEVELS)
        self.magnitude[part] = (level * (size > 0)).to(torch.uint8)

    def _spread(self, part: slice) -> Tensor:
        """Return each element's block maximum, float32."""
        first, last = part.start // BLOCK, -(-part.stop // BLOCK)
        return self.maximum[first:last].repeat_interleave(BLOCK)[: part.stop - part.start]


class VoteState(SignState):
    """A leaky vote of signs over refreshes: T <- share * T + (1 - share) * sign(g_M), T in 8-bit fixed point.

    The sign that the rule uses is that of T where |T| >= majority * (what a unanimous vote would have reached by now),
    else 0: the vote abstains, and the parameter may move. So the first refresh decides alone.

    T lies in [-127, 127]. Each vote moves it by (1 - share) of the way to the vote's end, rounded up: it arrives there
    exactly and never stops short, as rounding to the nearest would. For a share above 0.99 the smallest step, 1/127 of
    the range, takes over. Elementwise: it commutes bit-exactly with partitioning.

    Args:
        like: the flat tensor, `[num_params]`.
        share: share of the past that a refresh keeps, in [0, 1).
        majority: in [0, 1]; 0: the sign of T, 1: only where no vote ever differed.
    """

    def __init__(self, like: Tensor, *, share: float, majority: float) -> None:
        super().__init__(like)
        self._share, self._majority = share, majority
        self.tally = torch.zeros(like.numel(), dtype=torch.int8, device=like.device)
        self.refreshes = torch.zeros(1, dtype=torch.int64)

    def capture(self, gradient: Tensor) -> None:
        """Count the votes of one refresh's g_M `[num_params]`."""
        self.refreshes += 1
        needed = self._majority * self.reachable()
        for start in range(0, gradient.numel(), CHUNK):
            part = slice(start, min(start + CHUNK, gradient.numel()))
            tally = self._moved(self.tally[part].float(), torch.sign(gradient[part]).float())
            self.tally[part] = tally.to(torch.int8)
            self.set_sign(part, tally * (tally.abs() >= needed))
        self.captured = True

    def reachable(self) -> float:
        """Return |T| after as many unanimous votes as there were refreshes."""
        tally, vote = torch.zeros(1), torch.ones(1)
        for _ in range(min(int(self.refreshes), 127)):  # it is at its end by then
            tally = self._moved(tally, vote)
        return float(tally)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors a checkpoint must hold."""
        return {**super().tensors(), "tally": self.tally, "refreshes": self.refreshes}

    def _moved(self, tally: Tensor, vote: Tensor) -> Tensor:
        """Return the tally after a vote in {-1, 0, 1}; float32 that holds whole numbers."""
        way = vote * 127 - tally
        step = way.abs().mul_(1 - self._share).sub_(1e-3).ceil_().clamp_(min=1)  # 1e-3: rounding of 1 - share
        return tally + torch.sign(way) * torch.minimum(step, way.abs())
