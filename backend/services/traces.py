"""What is recorded of a request and its calls to upstreams, for whoever follows it through several programs.

A span is noted when it is over, in a microsecond, into a bounded queue; a thread of its own makes of it what
the outside wants (span_export.py). Which requests are followed is decided at their beginning: those that a
client follows, and others, but never more than so many a second. Without GATEWAY_TRACES none of it exists.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from backend.config import Settings, SettingsError
from backend.services.headers import Headers, Pair
from backend.services.traceparent import TRACEPARENT, new_span_id, new_trace_id, parent_of, spelled

log = logging.getLogger("gateway.traces")

# Spans that wait for the outside: some seconds of them.
MOST_WAITING = 4_096
BATCH = 256
# How long spans wait for company.
BATCH_SECONDS = 1.0
# At the end the rest is delivered, but nobody waits longer for it.
FAREWELL_SECONDS = 3.0

MISSING = "GATEWAY_TRACES: needs the libraries of requirements-trace.txt (bash install_async_deps.sh --trace)"

Value = str | int | float


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of work that is over; times by the machine's monotonic clock, in seconds.

    `wrong` names what went wrong; `inbound` tells requests of clients from calls to upstreams.
    """

    name: str
    trace_id: str
    span_id: str
    parent_id: str | None
    inbound: bool
    began: float
    ended: float
    values: dict[str, Value] = field(default_factory=dict)
    wrong: str | None = None


def tracer_of(settings: Settings) -> "Tracer | None":
    """Return None where nothing is followed. Raises SettingsError when the libraries for it are missing."""
    if settings.gateway_traces == "off":
        return None
    try:
        # An extra: it takes a third of a second to load, and most do without.
        from backend.services.span_export import outlet_of
    except ImportError:
        raise SettingsError(MISSING) from None
    return Tracer(lambda: outlet_of(settings), most_a_second=settings.gateway_traces_per_second)


class Outlet(Protocol):
    """Where spans go. `deliver` may take its time, and tells whether they arrived."""

    def deliver(self, spans: Sequence[Span]) -> bool: ...

    def close(self) -> None: ...


class Trace:
    """A request that is followed: the calls made for it are its children."""

    __slots__ = ("_tracer", "parent_id", "span_id", "trace_id")

    def __init__(self, tracer: "Tracer", trace_id: str, parent_id: str | None) -> None:
        self._tracer = tracer
        self.trace_id = trace_id
        self.parent_id = parent_id
        self.span_id = new_span_id()

    def call(self, method: str, upstream: str | None) -> "Call":
        """Begin a call to an upstream."""
        return Call(self._tracer, self, method, upstream)

    def finish(self, name: str, began: float, values: dict[str, Value], wrong: str | None) -> None:
        """The request is over."""
        self._tracer.note(
            Span(
                name,
                self.trace_id,
                self.span_id,
                self.parent_id,
                True,
                began,
                time.perf_counter(),
                values,
                wrong,
            )
        )

    def __repr__(self) -> str:
        return f"<Trace {self.trace_id}>"


class Call:
    """A call to an upstream while it is under way; `finish` counts once."""

    __slots__ = ("_began", "_name", "_span_id", "_trace", "_tracer", "values")

    def __init__(self, tracer: "Tracer", trace: Trace, method: str, upstream: str | None) -> None:
        self._tracer: Tracer | None = tracer
        self._trace = trace
        self._name = f"{method} {upstream or 'upstream'}"
        self._span_id = new_span_id()
        self._began = time.perf_counter()
        self.values: dict[str, Value] = {"http.request.method": method}
        if upstream is not None:
            self.values["peer.service"] = upstream

    def joined(self, headers: Headers) -> tuple[Pair, ...]:
        """Return what the upstream gets to read, with this call as its parent."""
        mine = TRACEPARENT, spelled(self._trace.trace_id, self._span_id)
        return (*(pair for pair in headers if pair[0] != TRACEPARENT), mine)

    def answered(self, status: int) -> None:
        """The head of the answer is there."""
        self.values["http.response.status_code"] = status
        self.values["gateway.first_byte_ms"] = round((time.perf_counter() - self._began) * 1e3, 3)

    def finish(self, wrong: str | None = None) -> None:
        tracer, self._tracer = self._tracer, None
        if tracer is None:
            return
        status = self.values.get("http.response.status_code")
        if wrong is None and isinstance(status, int) and status >= 400:
            wrong = str(status)
        trace, now = self._trace, time.perf_counter()
        tracer.note(
            Span(
                self._name,
                trace.trace_id,
                self._span_id,
                trace.span_id,
                False,
                self._began,
                now,
                self.values,
                wrong,
            )
        )


class Tracer:
    """Decides what is followed, and brings it out; `lost` counts the spans that could not be."""

    def __init__(
        self,
        outlet: Callable[[], Outlet],
        *,
        most_a_second: int,
        waiting: int = MOST_WAITING,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._make_outlet = outlet
        self._most_a_second = most_a_second
        self._most_waiting = waiting
        self._clock = clock
        self._second = -1
        self._begun = 0
        # By the clock of trails; most requests come before it, and need not ask.
        self.rests_until = 0.0
        self._waiting: deque[Span] = deque()
        self._some = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._failing = False
        # Each counted by one thread.
        self._crowded_out = self._undelivered = 0

    @property
    def lost(self) -> int:
        return self._crowded_out + self._undelivered

    def start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="traces", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Deliver what waits, for a moment; a thread's work."""
        self._closing.set()
        self._some.set()
        if self._thread is not None:
            self._thread.join(FAREWELL_SECONDS)
            if self._thread.is_alive():
                log.warning("the last spans were not delivered in time")

    def begun(self, headers: Headers) -> Trace | None:
        """Return how a request is followed, or None.

        A client that follows it goes first, and is believed as to the trace, not as to the effort.
        """
        now = self._clock()
        if now < self.rests_until:
            return None
        parent = parent_of(headers)
        if parent is not None and not parent.sampled:
            return None
        if int(now) != self._second:
            self._second, self._begun = int(now), 0
        self._begun += 1
        if self._begun >= self._most_a_second:
            self.rests_until = self._second + 1.0
        if parent is None:
            return Trace(self, new_trace_id(), None)
        return Trace(self, parent.trace_id, parent.span_id)

    def note(self, span: Span) -> None:
        """Take a span that is over; what finds no room is lost, and counted."""
        if len(self._waiting) >= self._most_waiting:
            self._crowded_out += 1
            return
        self._waiting.append(span)
        if len(self._waiting) >= BATCH and not self._some.is_set():
            self._some.set()

    def _work(self) -> None:
        outlet = self._make_outlet()
        while True:
            ending = self._closing.is_set()
            while batch := self._taken():
                self._deliver(outlet, batch)
            if ending:
                break
            self._some.wait(BATCH_SECONDS)
            self._some.clear()
        outlet.close()

    def _taken(self) -> list[Span]:
        return [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]

    def _deliver(self, outlet: Outlet, batch: list[Span]) -> None:
        try:
            arrived = outlet.deliver(batch)
        except Exception:  # of a library, or of the disk: whatever it is, requests do not care
            log.debug("delivering spans failed", exc_info=True)
            arrived = False
        if not arrived:
            self._undelivered += len(batch)
            if not self._failing:
                log.warning("spans cannot be delivered; they are lost and counted until they can")
        elif self._failing:
            log.warning("spans are delivered again")
        self._failing = not arrived

    def __repr__(self) -> str:
        return f"<Tracer {len(self._waiting)} waiting, {self.lost} lost>"
