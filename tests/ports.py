"""Ports of this machine for the servers that tests start."""

import random
import socket
from pathlib import Path

LOWEST = 20_000
"""Ray gives its workers the ports below."""
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """Return a port where nobody listens, and that the system gives to nobody who asks for any port.

    A server needs seconds until it listens. A port of the system's own range could be somebody else's by then: other
    tests run beside this one, and Ray and gloo ask for many.
    """
    wanted = random.SystemRandom()
    while True:
        port = wanted.randrange(LOWEST, _first_of_the_system())
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port


def _first_of_the_system() -> int:
    first = int(_RANGE.read_text(encoding="ascii").split()[0]) if _RANGE.exists() else 49_152  # macOS, as IANA says
    return first if first > LOWEST + 1000 else 1 << 16
