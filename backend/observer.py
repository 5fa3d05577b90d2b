"""Looks at every exchange that is over: it is counted, and the log tells of it where there is cause."""

from backend.errors import ClientGone, InternalError
from backend.exchange import Exchange
from backend.request_log import RequestLog
from backend.services.figures import METHODS, Figures, Trouble
from backend.services.traces import Trace, Value

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
        status, trail = exchange.status or 0, exchange.trail
        if trail.watches and exchange.broken is None:
            return
        trouble = None
        if status >= 400 or status == 0 or exchange.client_gone or exchange.broken is not None:
            trouble = trouble_of(exchange)
        if trail.trace is not None:
            _followed(exchange, trail.trace, trouble)
        if self._figures is not None:
            kind = LEFT if exchange.client_gone else BROKEN if exchange.broken else KINDS[status // 100]
            if exchange.relay is None:
                received, took = exchange.body.count, None
            else:
                # A WebSocket's hours would make every percentile meaningless: its handshake counts.
                received, took = exchange.relay.received_bytes, trail.head
            method, sent = exchange.scope["method"], exchange.sent_bytes
            self._figures.count(trail, method, kind, trouble, received, sent, took)
        self._log(exchange, trouble)


def _followed(exchange: Exchange, trace: Trace, trouble: Trouble | None) -> None:
    """Note the span of an exchange: templates and codes, no path, no query, nobody's name."""
    trail, method = exchange.trail, exchange.scope["method"]
    method = method if method in METHODS else "_OTHER"
    values: dict[str, Value] = {
        "http.request.method": method,
        "http.route": trail.route,
        "gateway.request_id": trail.request_id,
        "gateway.own_ms": round(trail.own * 1e3, 3),
        "gateway.wait_ms": round(trail.wait * 1e3, 3),
    }
    if exchange.status is not None:
        values["http.response.status_code"] = exchange.status
    if trouble is not None:
        values["gateway.error"] = trouble.code
    wrong = trouble.code if trouble is not None and trouble.source != "client" else None
    trace.finish(f"{method} {trail.route}", trail.began, values, wrong)


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
