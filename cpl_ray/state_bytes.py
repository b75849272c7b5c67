"""How much memory an optimizer keeps from step to step, counted from its tensors."""

from torch import Tensor

from cpl_ray.optimizer import CPLOptimizer


def state_bytes(optimizer: CPLOptimizer) -> int:
    """Return the bytes of this rank's moments and of what the method keeps, padding of partitions included.

    Parameters, their float32 masters and gradients are not counted: every method has them.
    """
    moments = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    kept = [tensor for state in optimizer.kept_states if state is not None for tensor in state.tensors().values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in (*moments, *kept))
