"""The network between training workers on several nodes.

Gloo listens on the address that the machine's own name has. Where that is a loopback one, as Debian writes it into
/etc/hosts, workers on other machines cannot reach it. Ray knows an address of each node that others can reach, so gloo
is given its interface, unless `GLOO_SOCKET_IFNAME` says which one it shall be.
"""

import os
from typing import Any

import psutil
import ray
import ray.train
from ray.train.torch import TorchConfig

IFNAME = "GLOO_SOCKET_IFNAME"
_TorchBackend: Any = TorchConfig().backend_cls


class AcrossNodes(TorchConfig):
    """Ray Train's process group, whose workers find each other on several nodes."""

    @property
    def backend_cls(self) -> type[Any]:
        """Return what sets the group up."""
        return _Backend


class _Backend(_TorchBackend):  # type: ignore[misc]  # Ray's class is not public, its way from the configuration is
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(take_interface)
        super().on_start(worker_group, backend_config)


def take_interface() -> None:
    """On a worker: choose the interface of this node's address, where other nodes take part."""
    context = ray.train.get_context()
    if context.get_local_world_size() < context.get_world_size() and IFNAME not in os.environ:
        name = interface_of(ray.util.get_node_ip_address())
        if name is not None:
            os.environ[IFNAME] = name


def interface_of(address: str) -> str | None:
    """Return the name of this machine's network interface that has an address; None if none has."""
    for name, found in psutil.net_if_addrs().items():
        if any(one.address.partition("%")[0] == address for one in found):
            return name
    return None
