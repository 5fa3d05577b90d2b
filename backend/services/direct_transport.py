"""The default transport: the gateway's own connections, HTTP/1.1 and HTTP/2."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from backend.config import Settings
from backend.errors import UpstreamConnectTimeout, UpstreamRefused
from backend.services import http1
from backend.services.connector import Connector, Place
from backend.services.http2 import connection as http2
from backend.services.http2.pool import Pool
from backend.services.request_framing import Body
from backend.services.transports import Opened, UpstreamCall

HTTP1, HTTP2 = "http/1.1", "h2"


class DirectTransport:
    """Keeps connections for each origin for as long as the settings say.

    Origins come from the settings, so there are few, and what is known of one is never forgotten.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connector = Connector(settings.gateway_connect_seconds)
        self._origins: dict[str, Origin] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    async def open(self, call: UpstreamCall, body: Body) -> Opened:
        """Send a call over a kept connection or a new one.

        Raises Overloaded, UpstreamRefused, UpstreamConnectTimeout, UpstreamBroken, UpstreamGarbage.
        """
        origin = self._origins.get(call.origin)
        if origin is None:
            origin = self._origins[call.origin] = Origin(
                call.origin, self._settings, self._connector, self._sweep_later
            )
        return await origin.open(call, body)

    def _sweep_later(self) -> None:
        if self._sweeper is None:
            loop = asyncio.get_running_loop()
            self._sweeper = loop.call_later(self._settings.upstream_keepalive_seconds / 2, self._sweep)

    def _sweep(self) -> None:
        """Close what was idle for too long; look again as long as anything is kept."""
        self._sweeper = None
        since = asyncio.get_running_loop().time() - self._settings.upstream_keepalive_seconds
        for origin in self._origins.values():
            if origin.keeps_after(since):
                self._sweep_later()

    async def aclose(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        for origin in self._origins.values():
            await origin.aclose()
        self._origins.clear()
        await asyncio.sleep(0)  # aborted connections are told on the loop's next turn


class Origin:
    """One upstream address: which HTTP it speaks, and the connections to it."""

    def __init__(
        self, url: str, settings: Settings, connector: Connector, on_kept: Callable[[], None]
    ) -> None:
        self._place = Place.of(url)
        self._settings = settings
        self._connector = connector
        self._on_kept = on_kept
        self._version = settings.http_version_of(url)
        # What the server chose last, where it is asked.
        self._chosen: str | None = None
        self._idle: deque[tuple[float, http1.Connection]] = deque()
        self._pool = Pool(
            self._connect_http2, settings.gateway_http2_connections, settings.gateway_pool_wait_seconds
        )

    async def open(self, call: UpstreamCall, body: Body) -> Opened:
        if self._speaks_http2():
            with suppress(_Chose):
                return await self._over_http2(call, body)
        try:
            connection = self._kept() or await self._connect_http1()
        except _Chose:
            return await self._over_http2(call, body)
        return await connection.send(call.method, call.target, self._place.authority, call.headers, body)

    async def _over_http2(self, call: UpstreamCall, body: Body) -> Opened:
        secure, authority = self._place.secure, self._place.authority
        request = http2.Request(call.method, secure, authority, call.target, call.headers)
        return await self._pool.send(request, body)

    def _speaks_http2(self) -> bool:
        if self._version == "auto":
            return self._place.secure and self._chosen != HTTP1
        return self._version == "2"

    async def _connect_http2(self) -> http2.Connection:
        """Connect and wait until the upstream has said how many calls it takes.

        Raises UpstreamRefused, UpstreamConnectTimeout, UpstreamGarbage, and _Chose.
        """
        connection = await self._connect(HTTP2)
        if isinstance(connection, http1.Connection):
            self._keep(connection)
            raise _Chose
        try:
            async with asyncio.timeout(self._settings.gateway_ping_seconds):
                await connection.ready
        except BaseException as exc:
            connection.abort()
            if isinstance(exc, TimeoutError):
                raise UpstreamConnectTimeout from exc
            raise
        if not connection.usable:
            raise UpstreamRefused  # it said goodbye at once
        self._on_kept()
        return connection

    async def _connect_http1(self) -> http1.Connection:
        connection = await self._connect(HTTP1)
        if isinstance(connection, http2.Connection):
            connection.abort()
            raise _Chose
        return connection

    async def _connect(self, wanted: str) -> http1.Connection | http2.Connection:
        """Connect and remember what the server chose, where it is asked."""
        silence = self._settings.gateway_ping_seconds
        known: dict[str, Callable[[], asyncio.Protocol]] = {
            HTTP2: lambda: http2.Connection(self._pool.changed, silence),
            HTTP1: lambda: http1.Connection(self._keep),
        }
        asked = self._version == "auto" and self._place.secure
        offers = known if asked else {wanted: known[wanted]}
        connection = await self._connector.connect(self._place, offers)
        assert isinstance(connection, http1.Connection | http2.Connection)  # noqa: S101 - narrows the type
        self._chosen = HTTP2 if isinstance(connection, http2.Connection) else HTTP1
        return connection

    def _kept(self) -> http1.Connection | None:
        while self._idle:
            _, connection = self._idle.pop()
            if connection.reusable and connection.quiet:
                return connection
            connection.abort()
        return None

    def _keep(self, connection: http1.Connection) -> None:
        self._idle.append((asyncio.get_running_loop().time(), connection))
        if len(self._idle) > self._settings.upstream_max_keepalive:
            self._idle.popleft()[1].abort()
        self._on_kept()

    def keeps_after(self, since: float) -> bool:
        """Close what was idle since then, in loop time, and tell whether anything is left."""
        while self._idle and (self._idle[0][0] <= since or not self._idle[0][1].reusable):
            self._idle.popleft()[1].abort()
        self._pool.close_idle(since)
        return bool(self._idle) or not self._pool.empty

    async def aclose(self) -> None:
        for _, connection in self._idle:
            connection.abort()
        self._idle.clear()
        await self._pool.aclose()


class _Chose(UpstreamRefused):
    """The upstream chose the other version: its calls take the other way."""
