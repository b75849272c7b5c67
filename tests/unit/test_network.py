"""Which network workers on several nodes meet on."""

import os
import socket
from typing import Any

import psutil
import pytest
import ray.train

from cpl_ray import network


def test_interface_of_an_address() -> None:
    known = {
        one.address: name
        for name, addresses in psutil.net_if_addrs().items()
        for one in addresses
        if one.family == socket.AF_INET
    }
    assert known
    assert {address: network.interface_of(address) for address in known} == known
    assert network.interface_of("203.0.113.7") is None


class Context:
    def __init__(self, local: int) -> None:
        self.get_local_world_size, self.get_world_size = lambda: local, lambda: 2


@pytest.mark.parametrize(
    ("local", "own", "chosen"), [(1, None, "lo"), (2, None, None), (1, "ib0", "ib0"), (2, "ib0", "ib0")]
)
def test_only_workers_of_several_nodes_choose_and_the_users_word_counts(
    monkeypatch: pytest.MonkeyPatch, local: int, own: str | None, chosen: str | None
) -> None:
    (loopback,) = {name for name in psutil.net_if_addrs() if network.interface_of("127.0.0.1") == name}
    monkeypatch.setattr(ray.train, "get_context", lambda: Context(local))
    monkeypatch.setattr(network.ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.delenv(network.IFNAME, raising=False)
    if own is not None:
        monkeypatch.setenv(network.IFNAME, own)
    network.take_interface()
    found: Any = os.environ.pop(network.IFNAME, None)
    assert found == (loopback if chosen == "lo" else chosen)


def test_the_group_is_still_set_up_by_rays_own_backend() -> None:
    from ray.train.torch import TorchConfig

    config = network.AcrossNodes(backend="gloo", timeout_s=5)
    assert issubclass(config.backend_cls, TorchConfig().backend_cls)
    assert (config.backend, config.timeout_s) == ("gloo", 5)
