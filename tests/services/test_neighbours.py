"""Calls that share an upstream: what one of them does is no business of the others, over either HTTP."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from backend.errors import UpstreamFirstByteTimeout
from backend.services.policies import Timeouts
from tests.support.http2_peer import Http2Peer
from tests.support.peer import Exchange, Peer, until
from tests.support.upstream import HTTP2, Door, Held, client_of

pytestmark = pytest.mark.asyncio

MEGABYTE = 1 << 20
PATIENCE = 20.0
PATIENT = Timeouts(first_byte=60, idle=60)
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture(params=["direct", HTTP2])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def answering(exchange: Exchange) -> None:
    """Silent, endless or at once, as the target says."""
    if exchange.head.target == b"/silent":
        await exchange.client_left()
    elif exchange.head.target == b"/endless":
        await exchange.send(OK + b"Content-Length: %d\r\n\r\n" % (1 << 40))
        while True:
            await exchange.send(bytes(65_536))
    elif exchange.head.target == b"/slow":
        await asyncio.sleep(0.5)
        await exchange.reply(b"slow")
    else:
        await exchange.body()
        await exchange.reply(b"ok")


@pytest_asyncio.fixture
async def peer(transport: str) -> AsyncIterator[Peer | Http2Peer]:
    async with (Http2Peer if transport == HTTP2 else Peer)(answering) as peer:
        yield peer


async def test_storms_of_cancelled_calls_leave_the_pool_usable(
    transport: str, peer: Peer | Http2Peer
) -> None:
    async with client_of(transport, upstream_max_connections=5) as client:
        door = Door("open", client)
        for number in range(12):
            calls = [asyncio.create_task(door.fetch(peer.url, b"/silent")) for _ in range(40)]
            before = len(peer.heads)
            await until(lambda before=before: len(peer.heads) > before, PATIENCE)
            await asyncio.sleep(0.003 * number)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            assert client.slots.in_use == 0
        await until(lambda: peer.open == 0, PATIENCE)
        for _ in range(8):
            async with asyncio.timeout(PATIENCE):
                answers = await asyncio.gather(*(door.fetch(peer.url, timeouts=PATIENT) for _ in range(5)))
            assert {body for _, _, body in answers} == {b"ok"}


async def test_stalled_reader_abandoned_download_and_timeout_leave_50_others_untouched(
    transport: str, peer: Peer | Http2Peer
) -> None:
    async with client_of(transport) as client:
        door = Door("open", client)
        others = [asyncio.create_task(door.fetch(peer.url, b"/slow", timeouts=PATIENT)) for _ in range(50)]
        await until(lambda: len(peer.heads) >= 50, PATIENCE)
        stalled = await door.call(peer.url, b"/endless", timeouts=PATIENT)
        abandoned = await door.call(peer.url, b"/endless", timeouts=PATIENT)
        assert len(await abandoned.read()) > 0
        await abandoned.aclose()
        with pytest.raises(UpstreamFirstByteTimeout):
            await door.fetch(peer.url, b"/silent", timeouts=Timeouts(first_byte=0.1))
        async with asyncio.timeout(PATIENCE):
            answers = await asyncio.gather(*others)
            again = await asyncio.gather(*(door.fetch(peer.url, timeouts=PATIENT) for _ in range(50)))
        assert [body for _, _, body in answers] == [b"slow"] * 50
        assert [body for _, _, body in again] == [b"ok"] * 50
        await until(lambda: peer.open <= (1 if transport == HTTP2 else 51), PATIENCE)
        await stalled.aclose()
        if transport == HTTP2:
            assert peer.connections == 1


async def test_abandoned_downloads_give_back_what_they_took_of_the_connection(
    transport: str, peer: Peer | Http2Peer
) -> None:
    """More unread bytes than any window is large; over one that leaks, the last call would wait for ever."""
    async with client_of(transport) as client:
        door = Door("open", client)
        for _ in range(30):
            for got in [await door.call(peer.url, b"/endless", timeouts=PATIENT) for _ in range(20)]:
                await got.aclose()
        async with asyncio.timeout(PATIENCE):
            assert (await door.fetch(peer.url, timeouts=PATIENT))[2] == b"ok"
    if transport == HTTP2:
        assert peer.connections == 1


async def test_stalled_upload_holds_up_no_other(transport: str, peer: Peer | Http2Peer) -> None:
    async with client_of(transport) as client:
        door = Door("open", client)
        bodies = [Held() for _ in range(20)]
        uploads = [
            asyncio.create_task(door.fetch(peer.url, method="POST", body=body, timeouts=PATIENT))
            for body in bodies
        ]
        await until(lambda: len(peer.heads) == 20, PATIENCE)
        async with asyncio.timeout(PATIENCE):
            for _ in range(5):
                content = b"x" * 300_000
                assert (await door.fetch(peer.url, method="POST", body=content, timeouts=PATIENT))[2] == b"ok"
        for body in bodies:
            body.go.set()
        answers = await asyncio.gather(*uploads)
        assert [body for _, _, body in answers] == [b"ok"] * 20
