"""The figures of all workers: for people and programs on this machine, and for tutors."""

import asyncio
import ipaddress
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from flask import Blueprint

from backend import VERSION
from backend.context import bearer, gateway, inbound, tutor
from backend.errors import GatewayError, NotAllowed, NotFound
from backend.operations import Raw, operation
from backend.responses import GatewayResponse, StreamedResponse, answer
from backend.services import metrics
from backend.services.board import Told
from backend.services.headers import Pair, first
from backend.services.summary import summary
from backend.services.tokens import Tokens
from backend.services.trail import TRAIL
from backend.services.viewers import Check
from backend.shortcut import direct

T = TypeVar("T")

figures = Blueprint("figures", __name__)

STORE_SECONDS = 1.0
# Whoever says so is a proxy, and speaks for others, who may be anywhere.
OF_PROXIES = (b"x-forwarded-for", b"x-forwarded-host", b"forwarded", b"via", b"x-real-ip")

EVENT_STREAM: list[Pair] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # nginx would hold events back until a page of them is full.
    (b"x-accel-buffering", b"no"),
]
EVENTS = Raw(
    ("text/event-stream",),
    {
        "type": "object",
        "description": "The `data` of an event: `points` (five seconds each, at first a quarter of an hour), "
        "`state` (every five seconds) or `now` (every second). Comment lines are signs of life.",
        "additionalProperties": True,
    },
)


@figures.get("/api/stats", endpoint="api_stats")
@figures.get("/stats", endpoint="stats")
@operation(
    "Figures of all workers: requests, errors, times, upstreams.",
    tag="health",
    access="tutor",
    errors=(404,),
    answers={200: {"type": "object", "additionalProperties": True}},
    description="404 where they are switched off; no sign-in is needed from the gateway's own machine.",
)
@direct
async def stats() -> GatewayResponse:
    await _permitted()
    document = await _told(summary)
    sessions = {"signed_in": gateway().tokens.count, "avatars": await _avatars()}
    return answer({"version": VERSION, **document, "sessions": sessions})


@figures.get("/api/stats/stream")
@operation(
    "The same as it changes, for the dashboard: events without end.",
    tag="health",
    access="tutor",
    errors=(404, 503),
    answers={200: EVENTS},
    description="Begins with the last quarter of an hour. Ends when the sign-in does, or the gateway. "
    "503 when too many look already. Needs no sign-in from the machine that the gateway runs on.",
)
@direct
async def stream() -> GatewayResponse:
    await _permitted(passive=True)
    token = bearer()
    check: Check | None = None if token is None else partial(_still_tutor, gateway().tokens, token)
    viewer = gateway().viewers.join(check)
    TRAIL.get().watches = True
    return StreamedResponse(200, [*EVENT_STREAM], viewer)


@figures.get("/metrics")
@operation(
    "The same for Prometheus.",
    tag="health",
    access="tutor",
    errors=(404,),
    answers={200: Raw(("text/plain",), {"type": "string"})},
    description="Needs no sign-in from the machine that the gateway runs on.",
)
@direct
async def exposed() -> GatewayResponse:
    await _permitted()
    return GatewayResponse(await _told(metrics.exposition), content_type=metrics.CONTENT_TYPE)


async def _avatars() -> int | None:
    """Return how many users have an avatar running; None while the database does not say."""
    with suppress(GatewayError, TimeoutError):
        async with asyncio.timeout(STORE_SECONDS):
            return await gateway().instances.count()
    return None


async def _still_tutor(tokens: Tokens, token: str) -> None:
    """Raises NotAuthenticated and NotAllowed when the sign-in has ended, or the role."""
    if not (await tokens.verify(token)).is_tutor:
        raise NotAllowed


async def _permitted(*, passive: bool = False) -> None:
    """Raises NotAuthenticated and NotAllowed, and NotFound where nothing is counted."""
    if not gateway().settings.gateway_figures:
        raise NotFound("This gateway does not count its requests.")
    if bearer() is not None or not _is_from_here():
        await tutor(passive=passive)


def _is_from_here() -> bool:
    """Tell whether somebody on this machine asks, for himself, and knows that it is this machine.

    A page from elsewhere may have its own name lead to 127.0.0.1: its requests name the page's host.
    """
    request = inbound()
    if any(first(request.headers, name) is not None for name in OF_PROXIES):
        return False
    host = request.origin.host.decode("latin-1").lower()
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return _is_loopback(request.origin.address) and (name == "localhost" or _is_loopback(name))


def _is_loopback(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


async def _told(draw: Callable[[list[Told]], T]) -> T:
    """Draw what the workers tell, in a thread: it takes milliseconds."""
    return await asyncio.to_thread(draw, await gateway().watching.board.everyone())
