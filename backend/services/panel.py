"""What the dashboard shows, as server-sent events: made once for all who look."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

from backend.errors import GatewayError
from backend.services.board import Told
from backend.services.counts import SLOT_SECONDS
from backend.services.history import KEPT, number_of
from backend.services.occupancy import Crowd
from backend.services.points import Point, points
from backend.services.readiness import Report
from backend.services.summary import summary, upstreams
from backend.services.watching import Watching

# A table of the page; who wants all of them asks /stats.
MOST_ROUTES = 12
MOST_CODES = 12
MOST_INSTANCES = 30
STORE_SECONDS = 1.0
# A worker's last five seconds may come a little late: they are told twice.
TOLD_AGAIN = 2
# The last five seconds are asked for when every worker had time to write them down.
WRITTEN_AFTER_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the panel looks beside the figures."""

    signed_in: Callable[[], int]
    crowds: Callable[[int], Awaitable[list[Crowd]]]
    report: Callable[[], Awaitable[Report]]


class Panel:
    """The picture of the last quarter of an hour, and of now; forgotten when nobody looks any more."""

    def __init__(
        self, version: str, watching: Watching, sources: Sources, clock: Callable[[], float] = perf_counter
    ) -> None:
        self._version = version
        self._watching = watching
        self._sources = sources
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """Take no memory while nobody looks."""
        self._points: dict[int, Point] = {}
        self._told = 0
        self._now = self._state = b""

    def opening(self) -> bytes:
        """Return what a new viewer has to know; `news` comes before."""
        return self._lines([*self._points.values()]) + self._state + self._now

    async def news(self) -> bytes:
        """Look again, and return what the viewers do not know yet."""
        told = await self._watching.board.seen()
        self._now = event("now", _now(told))
        # Of what the last five seconds brought.
        number = number_of(self._clock() - WRITTEN_AFTER_SECONDS) - 1
        if number == self._told:
            return self._now
        fresh, self._state = await asyncio.gather(self._fresh(number), self._looked(told))
        self._told = number
        return self._lines(fresh) + self._state + self._now

    async def _fresh(self, number: int) -> list[Point]:
        """Learn the points since the last time, or all of them after a pause."""
        since = number - TOLD_AGAIN + 1 if number - self._told < TOLD_AGAIN else number - KEPT + 1
        samples = await self._watching.history.seen(since)
        new = await asyncio.to_thread(points, [one for one in samples if one.number <= number])
        self._points |= {point["number"]: point for point in new}
        for old in [one for one in self._points if one <= number - KEPT]:
            del self._points[old]
        return new

    async def _looked(self, told: Sequence[Told]) -> bytes:
        document, report, crowds = await asyncio.gather(
            asyncio.to_thread(summary, told), self._sources.report(), self._crowds()
        )
        return event("state", self._state_of(document, report, crowds))

    def _state_of(
        self, document: Mapping[str, Any], report: Report, crowds: list[Crowd] | None
    ) -> dict[str, Any]:
        errors = {
            f"by_{kind}": _most(document["errors"][f"by_{kind}"], MOST_CODES) for kind in ("code", "upstream")
        }
        kept = ("total_requests", "error_count", "duration_ms", "gateway_ms", "workers_ended")
        return {
            "version": self._version,
            "status": report.status,
            "checks": dict(report.checks),
            **{name: document[name] for name in kept},
            "errors": errors,
            "routes": document["routes"][:MOST_ROUTES],
            "signed_in": self._sources.signed_in(),
            "instances": None if crowds is None else [asdict(crowd) for crowd in crowds],
        }

    async def _crowds(self) -> list[Crowd] | None:
        """Return None while the database does not say."""
        with suppress(GatewayError, TimeoutError):
            async with asyncio.timeout(STORE_SECONDS):
                return await self._sources.crowds(MOST_INSTANCES)
        return None

    def _lines(self, some: list[Point]) -> bytes:
        head = {"now": round(self._clock() / SLOT_SECONDS, 2), "seconds": SLOT_SECONDS, "kept": KEPT}
        return event("points", {**head, "points": some})


def event(name: str, content: Mapping[str, Any]) -> bytes:
    """Return one server-sent event."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return f"event: {name}\ndata: {text}\n\n".encode("utf-8", "replace")


def _now(told: Sequence[Told]) -> dict[str, Any]:
    live = [one for one in told if one.gauges is not None]
    gauges = [one.gauges for one in live if one.gauges is not None]
    return {
        "total_requests": sum(one.counts.requests for one in told),
        "in_flight": sum(one["in_flight"] for one in gauges),
        "viewers": sum(one["viewers"] for one in gauges),
        "places": sum(one["places"] for one in gauges),
        "places_in_use": sum(one["places_in_use"] for one in gauges),
        "uptime": round(max((one["uptime"] for one in gauges), default=0.0)),
        "upstreams": upstreams(gauges),
        "workers": [_worker(one) for one in sorted(live, key=lambda one: one.seat)],
    }


def _worker(told: Told) -> dict[str, Any]:
    gauges = told.gauges or {}
    kept = ("pid", "server", "loop", "in_flight", "lost_lines")
    return {
        **{name: gauges[name] for name in kept},
        "lag_ms": round(gauges["lag"] * 1e3, 1),
        "uptime": round(gauges["uptime"]),
        "total_requests": told.counts.requests,
    }


def _most(counted: Mapping[str, int], most: int) -> dict[str, int]:
    return dict(sorted(counted.items(), key=lambda item: -item[1])[:most])
