"""Which of Ray's exceptions mean that a process, a node or Ray itself was lost, so that another try may go well."""

from ray import exceptions

_SHOWN_CHARACTERS = 400
_LOST = (
    exceptions.ActorPlacementGroupRemoved,
    exceptions.LocalRayletDiedError,
    exceptions.NodeDiedError,
    exceptions.ObjectLostError,
    exceptions.OutOfMemoryError,
    exceptions.RayActorError,
    exceptions.RaySystemError,
    exceptions.RpcError,
    exceptions.TaskPlacementGroupRemoved,
    exceptions.WorkerCrashedError,
)


def lost(error: BaseException) -> str | None:
    """Return in one line what Ray says it has lost; None where `error` has another cause, and would come again."""
    seen: set[int] = set()
    one: BaseException | None = error
    while isinstance(one, BaseException) and id(one) not in seen:
        seen.add(id(one))
        # an actor that could not even be made, and an object that cannot be read, say the same for reasons of their own
        own = getattr(one, "actor_init_failed", False) or getattr(one, "traceback_str", None)
        if isinstance(one, _LOST) and not own:
            return "; ".join(line.strip() for line in str(one).splitlines() if line.strip())[:_SHOWN_CHARACTERS]
        inner = vars(one)
        one = inner.get("cause") or inner.get("controller_failure") or one.__cause__
    return None
