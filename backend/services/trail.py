"""What is noted of one request while it is served: for its answer, for the figures and for the log."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from time import perf_counter
from typing import Any, TypeVar

from backend.services.traces import Trace

T = TypeVar("T")

UNMATCHED = "unmatched"


# Written beforehand: hundredths of a millisecond, up to 20 ms, and what stands between them.
_HUNDREDTHS = tuple(b"%.2f" % (number / 100) for number in range(2_000))
_SHORT = 19.98e-3
_OWN = tuple(b"gateway;dur=%b, wait;dur=" % told for told in _HUNDREDTHS)
_WAIT = tuple(b"%b, upstream;dur=" % told for told in _HUNDREDTHS)


class Trail:
    """Where the time of one request went, in seconds, until the head of its answer was sent.

    `wait` is for a place in the pool, `upstream` from sending a call to the head of its answer, `reading` for
    a small request body. With the head `own` is known, what is left as the gateway's own part, and
    `upstream_head`; calls that are made later only add to `upstream`.
    """

    __slots__ = (
        "began",
        "head",
        "own",
        "reading",
        "request_id",
        "route",
        "trace",
        "upstream",
        "upstream_head",
        "upstream_name",
        "wait",
        "watches",
    )

    def __init__(self, request_id: str = "-") -> None:
        self.began = perf_counter()
        self.request_id = request_id
        self.route = UNMATCHED
        self.upstream_name: str | None = None
        self.wait = 0.0
        self.upstream = 0.0
        self.reading = 0.0
        self.head: float | None = None
        self.own = 0.0
        self.upstream_head = 0.0
        # Where it is followed through several programs; None where it is not, or nothing is.
        self.trace: Trace | None = None
        # The stream of a dashboard: it is not counted, or it would be seen in the picture that it brings.
        self.watches = False

    def answered(self) -> None:
        """The head of the answer is about to be sent."""
        self.head = perf_counter() - self.began
        self.upstream_head = self.upstream
        own = self.head - self.wait - self.upstream - self.reading
        self.own = own if own > 0 else 0.0  # calls made side by side count more than the time they took

    def timing(self) -> bytes:
        """Return the value of Server-Timing, in milliseconds; `answered` comes before."""
        own, wait, upstream = self.own, self.wait, self.upstream
        if own < _SHORT and wait < _SHORT and upstream < _SHORT:  # as of most calls that cost anything here
            return (
                _OWN[int(own * 1e5 + 0.5)]
                + _WAIT[int(wait * 1e5 + 0.5)]
                + _HUNDREDTHS[int(upstream * 1e5 + 0.5)]
            )
        return b"gateway;dur=%.2f, wait;dur=%.2f, upstream;dur=%.2f" % (own * 1e3, wait * 1e3, upstream * 1e3)

    @contextmanager
    def waiting(self, upstream_name: str | None = None) -> Iterator[None]:
        """Count the block as an upstream's time: work of `shared`, or the rest of an answer that is read."""
        self.upstream_name = upstream_name or self.upstream_name
        began = perf_counter()
        try:
            yield
        finally:
            self.upstream += perf_counter() - began

    def __repr__(self) -> str:
        head = "no head" if self.head is None else f"head after {self.head:.3f} s"
        return f"<Trail {self.request_id} {self.route}, {head}>"


# The trail of the request that the present task serves; work that no request asked for leaves its own here.
TRAIL: ContextVar[Trail] = ContextVar("trail", default=Trail())  # noqa: B039 - nobody reads that one


def shared(work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    """Start work for which several requests wait: it leaves a trail of its own, under the same request id."""
    context = copy_context()
    asked_for, trail = TRAIL.get(), Trail(TRAIL.get().request_id)
    trail.trace = asked_for.trace
    context.run(TRAIL.set, trail)
    return asyncio.get_running_loop().create_task(work, context=context)
