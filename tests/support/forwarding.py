"""Calls to forward with no server in front, and scripts of peers that fail."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from backend.services.forwarding import Forwarder, Inbound, Rules, Upstream
from backend.services.headers import Origin
from backend.services.http_client import HttpClient
from backend.services.streams import ByteStream, read_whole
from tests.support.peer import Exchange, echo
from tests.support.ports import free_port
from tests.support.upstream import GENEROUS, client_of
from tests.support.wire import Pair

ORIGIN = Origin("192.0.2.7", "http", b"gateway.test", "1.1", "0123456789abcdef")
RULES = Rules(GENEROUS)


@pytest_asyncio.fixture(params=["direct", "reqwest", "httpx"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[HttpClient]:
    # Short for what never answers, long enough for a busy machine: a peer that is there must not seem away.
    async with client_of(request.param, gateway_connect_seconds=1.5) as opened:
        yield opened


class Body:
    """A request body of given chunks."""

    def __init__(self, *chunks: bytes | Exception) -> None:
        self._chunks = list(chunks)
        self.reads = 0

    async def read(self) -> bytes:
        self.reads += 1
        chunk = self._chunks.pop(0) if self._chunks else b""
        if isinstance(chunk, Exception):
            raise chunk
        return chunk

    async def aclose(self) -> None:
        return None


def request(method: str = "GET", *headers: Pair, body: ByteStream | None = None) -> Inbound:
    return Inbound(method, b"/", b"", headers, body, ORIGIN)


async def told(forwarder: Forwarder, upstream: Upstream, inbound: Inbound, **more: Any) -> tuple[dict, bytes]:
    """Forward and read the answer whole."""
    forwarded = await forwarder.forward(inbound, upstream, more.pop("target", b"/"), more.pop("rules", RULES))
    return dict(forwarded.headers), await read_whole(forwarded.body, 1 << 30)


def breaking(times: int, then: Callable = echo) -> Callable:
    """A script that resets its first connections after it read the request."""

    async def script(exchange: Exchange) -> None:
        if exchange.number <= times:
            await exchange.body()
            exchange.reset()
        else:
            await then(exchange)

    return script


def answering(status: bytes, *headers: Pair, times: int = 1000) -> Callable:
    """A script that answers with a status, and after so many times with 200."""

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        failed = exchange.number <= times
        await exchange.reply(b"no" if failed else b"yes", *headers, status=status if failed else b"200 OK")

    return script


def first(count: int) -> int:
    """Dice that always fall on the first."""
    return 0


def refused() -> str:
    return f"http://127.0.0.1:{free_port()}"
