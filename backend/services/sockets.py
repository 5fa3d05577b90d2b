"""Options of TCP connections, both ways: from clients, and to upstreams.

Set on a listening socket they are inherited by every connection it accepts (Linux, BSD, macOS), which costs
nothing per call. What was measured and left out is in docs/operations.md.
"""

import logging
import socket
from collections.abc import Sequence

log = logging.getLogger("gateway.sockets")

# A peer that vanished, its cable pulled, is noticed two minutes after its last word: probes begin after a
# minute and are repeated four times, every 15 s. Linux by itself begins after two hours.
KEEPALIVE_IDLE_SECONDS = 60
KEEPALIVE_INTERVAL_SECONDS = 15
KEEPALIVE_PROBES = 4
# The same limit for an answer that a client does not acknowledge, or does not read; Linux by itself tries
# for a quarter of an hour, and waits for a reader without end. Upstreams may read as late as calls allow.
UNACKNOWLEDGED_MILLISECONDS = 120_000

# Name in the socket module, level, value. macOS calls the idle time TCP_KEEPALIVE.
OPTIONS = (
    ("SO_KEEPALIVE", socket.SOL_SOCKET, 1),
    ("TCP_NODELAY", socket.IPPROTO_TCP, 1),
    ("TCP_KEEPIDLE", socket.IPPROTO_TCP, KEEPALIVE_IDLE_SECONDS),
    ("TCP_KEEPALIVE", socket.IPPROTO_TCP, KEEPALIVE_IDLE_SECONDS),
    ("TCP_KEEPINTVL", socket.IPPROTO_TCP, KEEPALIVE_INTERVAL_SECONDS),
    ("TCP_KEEPCNT", socket.IPPROTO_TCP, KEEPALIVE_PROBES),
)
OF_CLIENTS = (*OPTIONS, ("TCP_USER_TIMEOUT", socket.IPPROTO_TCP, UNACKNOWLEDGED_MILLISECONDS))

_refused: set[str] = set()


def tune(sock: socket.socket, options: Sequence[tuple[str, int, int]] = OPTIONS) -> None:
    """Set the options that this system knows; one that it refuses is told once and left alone."""
    for name, level, value in options:
        number = getattr(socket, name, None)
        if number is None:
            continue
        try:
            sock.setsockopt(level, number, value)
        except OSError as exc:
            if name not in _refused:
                _refused.add(name)
                log.info("%s cannot be set here: %s", name, exc)
