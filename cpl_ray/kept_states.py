"""What a method keeps for each of an optimizer's flat tensors, and how checkpoints find it again."""

from collections.abc import Iterable

from torch import Tensor

from cpl_ray.mastered import SignState
from cpl_ray.methods.base import Kept, Method


class KeptStates:
    """The states of flat tensors in the order of their first sight, which is the same in every run.

    A state is made at its first use, so that plain fine-tuning pays no memory for it.
    """

    def __init__(self) -> None:
        self._states: dict[Tensor, Kept | None] = {}
        self._restored: dict[str, Tensor] = {}  # from a checkpoint, for tensors not seen yet

    @property
    def params(self) -> list[Tensor]:
        """The tensors seen so far."""
        return list(self._states)

    @property
    def states(self) -> list[Kept | None]:
        """What is kept for each of `params`; None for one that nothing had to be kept for."""
        return list(self._states.values())

    @property
    def captured(self) -> bool:
        """Whether a mastered gradient has been captured for every tensor seen so far."""
        states = self._states.values()
        return bool(self._restored) or (bool(states) and all(state is not None and state.captured for state in states))

    def see(self, param: Tensor, method: Method) -> None:
        """Note a tensor; at its first sight it gets what a checkpoint brought for it."""
        if param not in self._states:
            self._states[param] = method.new_kept(param) if method.keeps_start else None
            self._restore(len(self._states) - 1, param, method)

    def of(self, param: Tensor, method: Method) -> Kept:
        """Return what is kept for a seen tensor.

        Raises:
            ValueError: the method keeps nothing, so that there is nothing to capture or restore.
        """
        kept = self.offered(param, method)
        if kept is None:
            raise ValueError(f"{type(method).__name__} keeps nothing of mastered gradients")
        return kept

    def offered(self, param: Tensor, method: Method) -> Kept | None:
        """Return what the method keeps for a seen tensor, None if it keeps nothing."""
        if self._states[param] is None:
            self._states[param] = method.new_kept(param)
        return self._states[param]

    def found(self, param: Tensor) -> Kept | None:
        """Return what is kept for a seen tensor already."""
        return self._states[param]

    def places(self) -> dict[Tensor, int]:
        """Return the number of each tensor in the order of first sight."""
        return {param: index for index, param in enumerate(self._states)}

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint must hold: `INDEX.planes`, `INDEX.gradient`."""
        states = [(i, state) for i, state in enumerate(self._states.values()) if state is not None]
        return {f"{index}.{key}": tensor for index, state in states for key, tensor in state.tensors().items()}

    def load(self, tensors: dict[str, Tensor], method: Method) -> None:
        """Restore `tensors()` of the same partition; tensors not seen yet get theirs when they are.

        Raises:
            ValueError: the sizes are not those of this partition; for tensors not seen yet when they are.
        """
        self._restored = dict(tensors)
        for index, param in enumerate(self.params):
            self._restore(index, param, method)

    def _restore(self, index: int, param: Tensor, method: Method) -> None:
        prefix = f"{index}."
        saved = {
            key.removeprefix(prefix): self._restored.pop(key) for key in list(self._restored) if key.startswith(prefix)
        }
        if not saved:
            return
        state = self.of(param, method)
        own = state.tensors()
        if _shapes(own.items()) != _shapes(saved.items()):
            raise ValueError(
                f"mastered state of another partition: {saved.keys()} does not fit {param.numel()} elements"
            )
        for key, tensor in own.items():
            tensor.copy_(saved[key])
        if isinstance(state, SignState) and state.has_bits_beyond():
            raise ValueError(f"mastered state of another partition: it has more than {param.numel()} elements")
        state.restored()


def _shapes(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in tensors}
