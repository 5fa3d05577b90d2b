"""Looks at every exchange that is over: it is counted, and the log tells of it where there is cause."""

from backend.errors import ClientGone, InternalError
from backend.exchange import Exchange
from backend.request_log import RequestLog
from backend.services.figures import Figures, Trouble

GONE = Trouble(ClientGone.source, ClientGone.code)
# Class of an answer by the first digit of its status.
KINDS = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")
LEFT, BROKEN = "499", "broken"


class Observer:
    """Called once for every exchange, on the loop; what it does for a good quick one takes microseconds."""

    def __init__(self, log: RequestLog, figures: Figures | None) -> None:
        self._log = log
        self._figures = figures

    def __call__(self, exchange: Exchange) -> None:
        status = exchange.status or 0
        trouble = None
        if status >= 400 or status == 0 or exchange.client_gone or exchange.broken is not None:
            trouble = trouble_of(exchange)
        if self._figures is not None:
            kind = LEFT if exchange.client_gone else BROKEN if exchange.broken else KINDS[status // 100]
            self._figures.count(
                exchange.trail,
                exchange.scope["method"],
                kind,
                trouble,
                exchange.received_bytes,
                exchange.sent_bytes,
                # A WebSocket's hours would make every percentile meaningless: its handshake counts.
                exchange.trail.head if exchange.relay is not None else None,
            )
        self._log(exchange, trouble)


def trouble_of(exchange: Exchange) -> Trouble:
    """Return who is to blame for an exchange that did not go well, and with which code."""
    if exchange.client_gone:
        return GONE
    error = exchange.broken or exchange.trouble
    if error is not None:
        return Trouble(error.source, error.code)
    if exchange.status is None:
        return Trouble(InternalError.source, "stopped")
    # An upstream's own answer, passed on: it refused, or it failed.
    return Trouble("upstream" if exchange.status >= 500 else "client", f"answered_{exchange.status}")
