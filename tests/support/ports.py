"""Ports for those who have to name one before anybody listens there."""

import contextlib
import itertools
import random
import socket
from collections.abc import Iterator
from pathlib import Path

SPAN = 20_000


def _below_ephemeral() -> Iterator[int]:
    """Go round the ports below the ephemeral ones, from another place in every process."""
    end = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    first = random.SystemRandom().randrange(end - SPAN, end)
    return itertools.cycle([*range(first, end), *range(end - SPAN, first)])


_ports = _below_ephemeral()


def free_port() -> int:
    """A port that nobody listens on, and that the system hands to nobody who asks for any port."""
    for port in itertools.islice(_ports, SPAN):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")
