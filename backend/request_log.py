"""What is told of requests: each that failed, and the slow ones; good quick ones are silent.

5xx, and answers that broke off            WARNING    every one, with who failed
slower than SLOW_REQUEST_SECONDS           WARNING    one line a second
slower than half of that                   INFO       one line a second
the client left before the end (499)       INFO       every one: nobody's error
WebSockets, at their end                   INFO       every one, however long it was open
other errors of clients (4xx)              DEBUG
all others                                 DEBUG
"""

import logging
import time
from collections.abc import Callable

from backend.exchange import Exchange
from backend.services.figures import Trouble

log = logging.getLogger("gateway")

# A thousand people wait for a slow service together: one line a second tells it as well as a thousand,
# which would take the loop longer to write than the calls took it to carry.
SLOW_LINES_APART_SECONDS = 1.0


class RequestLog:
    """Looks at every exchange when it is over."""

    def __init__(self, slow_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._warn_from = slow_seconds
        self._inform_from = slow_seconds / 2
        self._slow = _Sampled(logging.WARNING, clock)
        self._slowish = _Sampled(logging.INFO, clock)

    def __call__(self, exchange: Exchange, trouble: Trouble | None) -> None:
        if exchange.client_gone:
            _tell(logging.INFO, "499", exchange, trouble)
        elif exchange.broken is not None:
            _tell(logging.WARNING, f"broken off ({exchange.broken})", exchange, trouble)
        elif exchange.status is not None and exchange.status >= 500:
            _tell(logging.WARNING, str(exchange.status), exchange, trouble)
        elif exchange.relay is not None:
            _tell(logging.INFO, f"socket closed with {exchange.relay.ending.code}", exchange, trouble)
        elif (seconds := exchange.seconds) >= self._warn_from:
            self._slow.tell(exchange, trouble)
        elif seconds >= self._inform_from:
            self._slowish.tell(exchange, trouble)
        elif log.isEnabledFor(logging.DEBUG):
            _tell(logging.DEBUG, str(exchange.status), exchange, trouble)


class _Sampled:
    """Tells of slow requests, but not of each where there are many."""

    def __init__(self, level: int, clock: Callable[[], float]) -> None:
        self._level = level
        self._clock = clock
        self._told_at = float("-inf")
        self._untold = 0

    def tell(self, exchange: Exchange, trouble: Trouble | None) -> None:
        now = self._clock()
        if now - self._told_at < SLOW_LINES_APART_SECONDS:
            self._untold += 1
            return
        others = f" and {self._untold} more since the last such line" if self._untold else ""
        self._told_at, self._untold = now, 0
        _tell(self._level, f"slow{others}: {exchange.status}", exchange, trouble)


def _tell(level: int, what: str, exchange: Exchange, trouble: Trouble | None) -> None:
    """Write one line: the template of the route, as paths and queries hold what is nobody's business."""
    trail = exchange.trail
    fields = {
        "method": exchange.scope["method"],
        "route": trail.route,
        "status": exchange.status,
        "seconds": round(exchange.seconds, 6),
        "gateway_seconds": round(trail.own, 6),
        "wait_seconds": round(trail.wait, 6),
        "upstream_seconds": round(trail.upstream, 6),
        "received_bytes": exchange.received_bytes,
        "sent_bytes": exchange.sent_bytes,
    }
    if exchange.relay is not None:
        fields["close_code"] = exchange.relay.ending.code
    blame = ""
    if trouble is not None:
        fields |= {"source": trouble.source, "code": trouble.code}
        blame = f", {trouble.code} by {trouble.source}"
    if trail.upstream_name is not None:
        fields["upstream"] = trail.upstream_name
        blame += f", upstream {trail.upstream_name}"
    log.log(
        level,
        "%s %s %s after %.3f s, %d bytes in, %d out%s",
        what,
        fields["method"],
        trail.route,
        exchange.seconds,
        exchange.received_bytes,
        exchange.sent_bytes,
        blame,
        extra={"fields": fields},
    )
