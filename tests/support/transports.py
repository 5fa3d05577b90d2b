"""Every transport through both doors, and peers that speak what it speaks."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from tests.support.http2_peer import Http2Peer
from tests.support.peer import Exchange, Peer, Script
from tests.support.ports import free_port
from tests.support.upstream import HTTP2, Door, client_of

MEGABYTE = 1 << 20
OK = b"HTTP/1.1 200 OK\r\n"


@pytest_asyncio.fixture(params=["direct", HTTP2, "reqwest", "httpx"])
async def transport(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest_asyncio.fixture(params=["open", "http"])
async def door(request: pytest.FixtureRequest, transport: str) -> AsyncIterator[Door]:
    async with client_of(transport) as client:
        yield Door(request.param, client)


@pytest_asyncio.fixture
async def start(transport: str) -> AsyncIterator[Callable]:
    """Peers that live as long as the test, and speak what the transport speaks."""
    async with AsyncExitStack() as stack:

        async def started(script: Script) -> Peer | Http2Peer:
            return await stack.enter_async_context((Http2Peer if transport == HTTP2 else Peer)(script))

        yield started


def saying(*raw: bytes, close: bool = True) -> Script:
    """Answer with these bytes, then close, or hold the connection."""

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        for part in raw:
            await exchange.send(part)
        if close:
            exchange.writer.close()
        else:
            await exchange.client_left()

    return script


# pyreqwest 0.15 lets go of a call that is given up before its head came, but does not end it: the
# connection stands until the upstream answers.
ends_given_up_calls = pytest.mark.parametrize("transport", ["direct", HTTP2, "httpx"])
# What is wrong with the lines of HTTP/1.1; for frames see tests/services/http2.
over_lines = pytest.mark.parametrize("transport", ["direct", "reqwest", "httpx"])


async def refusing() -> str:
    return f"http://127.0.0.1:{free_port()}"
