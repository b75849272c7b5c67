"""What counts as lost by Ray, with its own exceptions."""

from collections.abc import Callable

import pytest
from ray.exceptions import ActorDiedError, NodeDiedError, RaySystemError, RayTaskError, WorkerCrashedError
from ray.train import ControllerError

from cpl_ray.errors import DataError, UserError
from cpl_ray.losses import lost


def raised(error: Exception, cause: Exception | None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:
        return caught


def remote(cause: Exception) -> RayTaskError:
    return RayTaskError("work", "Traceback: no process was lost", cause)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (ActorDiedError, "The actor died unexpectedly before finishing this task."),
        (lambda: NodeDiedError("the node\n  has gone\n"), "the node; has gone"),
        (lambda: remote(WorkerCrashedError()), "The worker died unexpectedly"),
        (lambda: raised(UserError("assessing failed"), ActorDiedError()), "The actor died unexpectedly"),
        (
            lambda: raised(UserError("training failed"), ControllerError(ActorDiedError())),
            "The actor died unexpectedly",
        ),
        (lambda: RaySystemError("cannot read it", "Traceback: no module"), None),
        (lambda: remote(DataError("no items")), None),
        (lambda: remote(DataError("no items")).as_instanceof_cause(), None),
        (lambda: ActorDiedError(remote(DataError("no model"))), None),
        (lambda: ValueError("nothing"), None),
    ],
)
def test_only_what_may_go_well_another_time_is_lost(make: Callable[[], Exception], told: str | None) -> None:
    found = lost(make())
    assert (found or "")[: len(told or "")] == (told or "")
    assert (found is None) == (told is None)


def test_causes_in_a_circle_end() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert lost(first) is None
