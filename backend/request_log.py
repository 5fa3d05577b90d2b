"""What is told of requests: each that failed, and the slow ones together; good quick ones are silent."""

import logging
import time
from collections.abc import Callable

from backend.exchange import Exchange

log = logging.getLogger("gateway")

# A thousand people wait for a slow service together: one line a second tells it as well as a thousand,
# which would take the loop longer to write than the calls took it to carry.
SLOW_LINES_APART_SECONDS = 1.0


class RequestLog:
    """Looks at every exchange when it is over."""

    def __init__(self, slow_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._slow_seconds = slow_seconds
        self._clock = clock
        self._told_at = float("-inf")
        self._untold = 0

    def __call__(self, exchange: Exchange) -> None:
        if exchange.client_gone:
            _tell(logging.INFO, "499", exchange)
        elif exchange.broken is not None:
            _tell(logging.WARNING, f"broken off ({exchange.broken})", exchange)
        elif exchange.status is not None and exchange.status >= 500:
            _tell(logging.WARNING, str(exchange.status), exchange)
        elif exchange.seconds > self._slow_seconds:
            self._slow(exchange)

    def _slow(self, exchange: Exchange) -> None:
        now = self._clock()
        if now - self._told_at < SLOW_LINES_APART_SECONDS:
            self._untold += 1
            return
        others = f" and {self._untold} more since the last such line" if self._untold else ""
        self._told_at, self._untold = now, 0
        _tell(logging.INFO, f"slow{others}: {exchange.status}", exchange)


def _tell(level: int, what: str, exchange: Exchange) -> None:
    scope = exchange.scope
    told = (what, scope["method"], scope["path"], exchange.seconds, exchange.request_id)
    log.log(level, "%s %s %s after %.3f s, request %s", *told)
