"""The few sums over ranks that the loop needs, with or without a process group."""

from collections.abc import Sequence

import torch
import torch.distributed as dist


class Collectives:
    """Sums and maxima over all ranks; one process needs no group.

    Args:
        device: where the scalars must lie for the backend (CPU for gloo, the GPU for NCCL).
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._grouped = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if self._grouped else 0
        self.world_size = dist.get_world_size() if self._grouped else 1

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums over ranks, float64."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def max(self, value: int) -> int:
        """Return the largest value over ranks."""
        return int(self._reduce([value], dist.ReduceOp.MAX)[0])

    def texts(self, text: str) -> list[str]:
        """Return the text of each rank, by rank."""
        data = text.encode()
        longest = self.max(len(data))
        if self.world_size == 1 or longest == 0:
            return [text] * self.world_size
        own = torch.zeros(longest, dtype=torch.uint8, device=self._device)
        own[: len(data)] = torch.tensor(list(data), dtype=torch.uint8)
        found = [torch.empty_like(own) for _ in range(self.world_size)]
        dist.all_gather(found, own)
        return [bytes(one.tolist()).rstrip(b"\0").decode() for one in found]

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.sum([0.0])

    def _reduce(self, values: Sequence[float], op: "dist.ReduceOp.RedOpType") -> list[float]:
        if self.world_size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self._device)
        dist.all_reduce(tensor, op=op)
        return tensor.tolist()
