"""New connections to upstreams for calls that ask for another protocol: a WebSocket's handshake."""

import asyncio
from typing import Protocol, runtime_checkable

from backend.config import Settings
from backend.services import http1
from backend.services.connector import Connector, Place
from backend.services.request_framing import Body
from backend.services.transports import Opened, UpstreamCall


@runtime_checkable
class Upgraded(Protocol):
    """An answer whose connection can be had."""

    def take(self) -> tuple[asyncio.Transport, bytes]: ...


class Dialer:
    """Makes such calls, whatever transport the settings choose for others; always over HTTP/1.1.

    A connection serves one call: kept ones may be about to close, and there is nothing to save.
    """

    def __init__(self, settings: Settings) -> None:
        self._connector = Connector(settings.gateway_connect_seconds)
        self._places: dict[str, Place] = {}

    async def open(self, call: UpstreamCall, body: Body) -> Opened:
        """Connect, send the call and return its answer.

        Raises UpstreamRefused, UpstreamConnectTimeout, UpstreamBroken, UpstreamGarbage.
        """
        place = self._places.setdefault(call.origin, Place.of(call.origin))
        connection = await self._connector.connect(
            place, {"http/1.1": lambda: http1.Connection(lambda idle: idle.abort())}
        )
        assert isinstance(connection, http1.Connection)  # noqa: S101 - narrows the type
        return await connection.send(
            call.method, call.target, place.authority, call.headers, body, upgrade=True
        )

    async def aclose(self) -> None:
        """Nothing is kept."""
