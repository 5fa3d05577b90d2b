"""The figures of all workers: for people and programs on this machine, and for tutors."""

import asyncio
import ipaddress
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from flask import Blueprint

from backend import VERSION
from backend.context import bearer, gateway, inbound, tutor
from backend.errors import GatewayError, NotFound
from backend.operations import Raw, operation
from backend.responses import GatewayResponse, answer
from backend.services import metrics
from backend.services.board import Told
from backend.services.headers import first
from backend.services.summary import summary
from backend.shortcut import direct

T = TypeVar("T")

figures = Blueprint("figures", __name__)

STORE_SECONDS = 1.0
# Whoever says so is a proxy, and speaks for others, who may be anywhere.
OF_PROXIES = (b"x-forwarded-for", b"x-forwarded-host", b"forwarded", b"via", b"x-real-ip")


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
    sessions = {"signed_in": gateway().tokens.count, **await _avatars()}
    return answer({"version": VERSION, **document, "sessions": sessions})


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


async def _avatars() -> dict[str, object]:
    """Return how many users have an avatar running, and at which ports; None while the database is away."""
    with suppress(GatewayError, TimeoutError):
        async with asyncio.timeout(STORE_SECONDS):
            at_ports = await gateway().sessions.count()
            return {
                "avatars": sum(at_ports.values()),
                "at_ports": {str(port): n for port, n in at_ports.items()},
            }
    return {"avatars": None, "at_ports": None}


async def _permitted() -> None:
    """Raises NotAuthenticated and NotAllowed, and NotFound where nothing is counted."""
    if not gateway().settings.gateway_figures:
        raise NotFound("This gateway does not count its requests.")
    if bearer() is not None or not _is_from_here():
        await tutor()


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
