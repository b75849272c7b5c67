"""Sampling with a generator per row: what a row becomes does not depend on who is in its batch."""

import hashlib
from collections.abc import Sequence

import torch


def row_seed(seed: int, name: str) -> int:
    """Return a seed in [0, 2**63) that follows from `seed` and the row's name alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}\n{name}".encode()).digest()[:8], "big") >> 1


class GumbelNoise:
    """Turns an argmax into a sample: argmax_v (l_v / T + G_v), G_v = −log(−log U_v), is distributed as softmax(l / T).

    The Gumbel-max trick, Maddison, Tarlow & Minka 2014, A* sampling (arXiv 1411.0030), section 2. A row uses up
    exactly one vector of its own generator per token, so neither order nor company of the rows matters; logits that
    differ by rounding give another token only where the two best differ by no more than that.
    """

    def __init__(self, seeds: Sequence[int], temperature: float) -> None:
        """Make a generator for each row.

        Args:
            seeds: of each row, in [0, 2**63).
            temperature: T, above 0; 1 samples from the model's own distribution.
        """
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature:g}; it must be above 0")
        self.temperature = temperature
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, row: int, logits: torch.Tensor) -> torch.Tensor:
        """Return the perturbed logits `[vocabulary]`, float64, of one row; random numbers are drawn on the CPU."""
        uniform = torch.rand(logits.shape, generator=self._generators[row], dtype=torch.float64)
        # U = 0 gives −infinity, the right limit: never chosen
        return logits.double() / self.temperature - (-uniform.log()).log().to(logits.device)
