"""The default transport: the gateway's own HTTP/1.1 connections, and the Rust client for HTTP/2."""

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from backend.config import Settings
from backend.errors import UpstreamConnectTimeout, UpstreamRefused
from backend.services.http1 import Body, Connection
from backend.services.transports import Opened, ReqwestTransport, UpstreamCall


@dataclass(frozen=True, slots=True)
class Place:
    """An origin taken apart: where to connect and what to call it."""

    host: str
    port: int
    authority: bytes
    secure: bool


@lru_cache(maxsize=1024)
def _place(origin: str) -> Place:
    parts = urlsplit(origin)
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    return Place(parts.hostname or "", port, parts.netloc.encode("ascii"), secure)


class DirectTransport:
    """Keeps idle connections for each origin, newest first, for as long as the settings say."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._idle: dict[str, deque[tuple[float, Connection]]] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._rust: ReqwestTransport | None = None
        self._tls: ssl.SSLContext | None = None

    async def open(self, call: UpstreamCall, body: Body) -> Opened:
        """Send a call over a kept connection or a new one.

        Raises UpstreamRefused, UpstreamConnectTimeout, UpstreamBroken.
        """
        place = _place(call.origin)
        if self._speaks_http2(place):
            return await self._http2().open(call, body)
        connection = self._kept(call.origin) or await self._connect(call.origin, place)
        return await connection.send(call.method, call.target, place.authority, call.headers, body)

    def _speaks_http2(self, place: Place) -> bool:
        version = self._settings.upstream_http_version
        return version == "2" or (version == "auto" and place.secure)

    def _http2(self) -> ReqwestTransport:
        if self._rust is None:
            self._rust = ReqwestTransport(self._settings)
        return self._rust

    def _kept(self, origin: str) -> Connection | None:
        idle = self._idle.get(origin)
        while idle:
            _, connection = idle.pop()
            if connection.reusable and connection.quiet:
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: str, place: Place) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._settings.gateway_connect_seconds):
                _, connection = await loop.create_connection(
                    lambda: Connection(lambda idle: self._keep(origin, idle)),
                    place.host,
                    place.port,
                    ssl=self._context() if place.secure else None,
                )
        except TimeoutError as exc:
            raise UpstreamConnectTimeout from exc
        except OSError as exc:
            raise UpstreamRefused from exc
        return connection

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls

    def _keep(self, origin: str, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        idle = self._idle.setdefault(origin, deque())
        idle.append((loop.time() + self._settings.upstream_keepalive_seconds, connection))
        if len(idle) > self._settings.upstream_max_keepalive:
            idle.popleft()[1].abort()
        if self._sweeper is None:
            self._sweeper = loop.call_later(self._settings.upstream_keepalive_seconds, self._sweep)

    def _sweep(self) -> None:
        """Close what was idle for too long; look again as long as anything is kept."""
        loop = asyncio.get_running_loop()
        for origin, idle in list(self._idle.items()):
            while idle and (idle[0][0] <= loop.time() or not idle[0][1].reusable):
                idle.popleft()[1].abort()
            if not idle:
                del self._idle[origin]
        self._sweeper = (
            loop.call_later(self._settings.upstream_keepalive_seconds / 2, self._sweep)
            if self._idle
            else None
        )

    async def aclose(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        for idle in self._idle.values():
            for _, connection in idle:
                connection.abort()
        self._idle.clear()
        if self._rust is not None:
            await self._rust.aclose()
        await asyncio.sleep(0)  # aborted connections are told on the loop's next turn
