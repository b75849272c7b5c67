"""Bytes of the tensors that are alive while code runs, counted at every operation: of real tensors and of fake ones.

Nothing of an allocator is in it: no rounding, fragments, library workspaces or contexts.
"""

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the storages made inside the block that are alive, and their peak.

    Args:
        known: tensors from before, which are not counted, nor are views of them.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = 0
        """Bytes alive."""
        self.peak = 0
        """Most bytes ever alive at once."""
        self.set_aside = 0
        """Bytes of those alive that somebody else accounts for, see `peak_without`."""
        self.peak_without = 0
        """Most bytes ever alive at once, less what was set aside by then."""
        self._live: dict[int, int] = {}
        for tensor in known:
            self._note(tensor, counted=False)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, Tensor):
                self._note(made)
        self.peak = max(self.peak, self.now)
        self.peak_without = max(self.peak_without, self.now - self.set_aside)
        return result

    def _note(self, tensor: Tensor, *, counted: bool = True) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live:
            return
        size = storage.nbytes() if counted else 0
        self._live[key] = size
        self.now += size
        weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        self.now -= self._live.pop(key, 0)
