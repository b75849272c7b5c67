"""The collector of cycles is as it was after records were made, whatever happened meanwhile."""

import gc
from collections.abc import Iterator

import pytest

from cpl_ray.bulk import uncollected


@pytest.fixture
def collecting() -> Iterator[None]:
    before = gc.isenabled()
    yield
    (gc.enable if before else gc.disable)()


def fail_inside() -> None:
    with uncollected():
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
        raise LookupError("inside")


@pytest.mark.parametrize("enabled", [True, False])
def test_pauses_and_restores(enabled: bool, collecting: None) -> None:
    (gc.enable if enabled else gc.disable)()
    with pytest.raises(LookupError, match="inside"):
        fail_inside()
    assert gc.isenabled() is enabled
