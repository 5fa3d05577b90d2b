"""The upstream client alone: opened on the test's own loop, called through either of its doors."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx

from backend.config import load
from backend.services.http_client import TIMEOUTS, HttpClient
from backend.services.policies import Timeouts
from backend.services.streams import ByteStream
from backend.services.transports import UpstreamCall
from tests.support.gateway import KEY
from tests.support.wire import Pair

HTTP2 = "direct over HTTP/2"
GENEROUS = Timeouts(first_byte=10, idle=10, total=20)


@contextlib.asynccontextmanager
async def client_of(transport: str, **over: Any) -> AsyncIterator[HttpClient]:
    """Open a client; `direct over HTTP/2` is the default transport with prior knowledge."""
    if transport == HTTP2:
        transport, over = "direct", {"upstream_http_version": "2", **over}
    # On a busy machine a connection may take its time; tests of that limit set their own.
    over = {"gateway_connect_seconds": 10.0, **over}
    settings = load({}, None, upstream_transport=transport, jwt_secret_key=KEY, **over)
    async with HttpClient(settings) as client:
        yield client
    assert client.slots.in_use == 0, "a call kept its place"


class Held:
    """A body of two parts; the second waits for the test."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.parts = [b"first", b"second"]

    async def read(self) -> bytes:
        if len(self.parts) == 1:
            await self.go.wait()
        return self.parts.pop(0) if self.parts else b""

    async def aclose(self) -> None:
        return None


class Got:
    """An answer through either door: head at once, body by `read`."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.status: int = source.status_code if isinstance(source, httpx.Response) else source.status
        self.headers: list[Pair] = (
            source.headers.raw if isinstance(source, httpx.Response) else source.headers
        )
        self._chunks = source.aiter_raw() if isinstance(source, httpx.Response) else None

    async def read(self) -> bytes:
        if self._chunks is None:
            return bytes(await self._source.read())
        return await anext(self._chunks, b"")

    async def whole(self) -> bytes:
        content = b""
        while chunk := await self.read():
            content += chunk
        return content

    async def aclose(self) -> None:
        if self._chunks is not None:
            await self._chunks.aclose()
        await self._source.aclose()


@dataclass
class Door:
    """One way into the client: `open` for the forwarding core, `http` for the gateway's own calls."""

    name: str
    client: HttpClient

    async def call(
        self,
        url: str,
        target: bytes = b"/",
        *,
        method: str = "GET",
        headers: tuple[Pair, ...] = (),
        body: bytes | ByteStream | None = None,
        timeouts: Timeouts = GENEROUS,
    ) -> Got:
        if self.name == "open":
            return Got(await self.client.open(UpstreamCall(method, url, target, headers, body, timeouts)))
        request = self.client.http.build_request(
            method,
            url + target.decode("ascii"),
            headers=[(name.decode(), value.decode()) for name, value in headers],
            content=body if isinstance(body, bytes) else None,
            extensions={TIMEOUTS: timeouts},
        )
        return Got(await self.client.http.send(request, stream=True))

    async def fetch(self, url: str, target: bytes = b"/", **more: Any) -> tuple[int, list[Pair], bytes]:
        """Call and read the whole answer."""
        got = await self.call(url, target, **more)
        try:
            return got.status, got.headers, await got.whole()
        finally:
            await got.aclose()
