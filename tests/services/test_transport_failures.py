"""What a client is told when its upstream fails, on every transport and through both doors."""

import asyncio
from collections.abc import Callable

import pytest

from backend.errors import (
    Overloaded,
    UpstreamBroken,
    UpstreamConnectTimeout,
    UpstreamError,
    UpstreamFirstByteTimeout,
    UpstreamIdleTimeout,
    UpstreamRefused,
    UpstreamTotalTimeout,
)
from backend.services.policies import Timeouts
from tests.support.peer import Exchange, silent, until
from tests.support.transports import MEGABYTE, OK, door, over_lines, refusing, saying, start, transport
from tests.support.upstream import Door, client_of
from tests.support.wire import unanswering

__all__ = ["door", "start", "transport"]

pytestmark = pytest.mark.asyncio


async def test_refused_connection_was_never_sent(door: Door) -> None:
    with pytest.raises(UpstreamRefused) as failed:
        await door.fetch(await refusing())
    assert not failed.value.sent


async def test_unknown_host_was_never_sent(door: Door) -> None:
    with pytest.raises(UpstreamRefused):
        await door.fetch("http://no-such-host.invalid")


async def test_plain_service_behind_an_https_address_was_never_sent(door: Door, start: Callable) -> None:
    async def hangs_up(exchange: Exchange) -> None:
        exchange.writer.close()

    peer = await start(hangs_up)
    peer_url = peer.url.replace("http:", "https:")
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(UpstreamError) as failed:
            await door.fetch(peer_url.replace(str(peer.port), str(port)))
    assert not failed.value.sent


async def test_connection_that_is_not_taken_times_out_unsent(transport: str) -> None:
    with unanswering() as port:
        async with client_of(transport, gateway_connect_seconds=0.2) as client:
            for name in ("open", "http"):
                with pytest.raises(UpstreamConnectTimeout) as failed:
                    await Door(name, client).fetch(f"http://127.0.0.1:{port}")
                assert not failed.value.sent


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_connection_that_ends_before_the_answer_is_broken_and_sent(
    door: Door, start: Callable, method: str, how: str
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.body()
        exchange.reset() if how == "reset" else exchange.writer.close()

    peer = await start(script)
    with pytest.raises(UpstreamBroken) as failed:
        await door.fetch(peer.url, method=method, body=b"x" if method == "POST" else None)
    assert failed.value.sent
    assert len(peer.heads) == 1


@pytest.mark.parametrize(
    "cut",
    [
        b"Content-Length: 10\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n9\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    ],
)
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_cut_body_never_looks_whole(door: Door, start: Callable, cut: bytes, how: str) -> None:
    read = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(OK + cut)
        await read.wait()
        exchange.reset() if how == "reset" else exchange.writer.close()

    peer = await start(script)
    got = await door.call(peer.url)
    assert await got.read() == b"hello"
    read.set()
    with pytest.raises(UpstreamBroken):
        await got.whole()
    await got.aclose()


ENDLESS = OK + b"X-Long: " + b"x" * (2 * MEGABYTE)
GARBAGE = {
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "binary": bytes(range(256)) * 4,
    "HTTP/0.9": b"<html>hello</html>",
    "no status": b"HTTP/1.1\r\n\r\n",
    "status of letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "two content lengths": OK + b"Content-Length: 3\r\nContent-Length: 5\r\n\r\nhello",
    "negative content length": OK + b"Content-Length: -5\r\n\r\nhello",
    "content length of letters": OK + b"Content-Length: five\r\n\r\nhello",
    "header without colon": OK + b"no colon here\r\nContent-Length: 0\r\n\r\n",
    "NUL in a header": OK + b"X-Nul: a\0b\r\nContent-Length: 0\r\n\r\n",
    "endless header": ENDLESS,
    "cut head": OK + b"Content-",
}


@over_lines
@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE.keys())
async def test_answer_that_makes_no_sense_is_the_upstreams_fault(
    door: Door, start: Callable, answer: bytes
) -> None:
    peer = await start(saying(answer))
    with pytest.raises(UpstreamError) as failed:
        await door.fetch(peer.url, method="POST", body=b"x")
    assert failed.value.status == 502
    assert failed.value.sent
    assert len(peer.heads) == 1


async def test_silence_is_a_first_byte_timeout(door: Door, start: Callable) -> None:
    peer = await start(silent)
    with pytest.raises(UpstreamFirstByteTimeout):
        await door.fetch(peer.url, timeouts=Timeouts(first_byte=0.1, idle=10, total=10))


async def test_head_that_trickles_is_a_first_byte_timeout(door: Door, start: Callable) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(OK)
        while not exchange.writer.is_closing():
            await exchange.send(b"X-A: 1\r\n")
            await asyncio.sleep(0.02)

    peer = await start(script)
    with pytest.raises(UpstreamFirstByteTimeout):
        await door.fetch(peer.url, timeouts=Timeouts(first_byte=0.2, idle=10, total=10))


async def test_body_that_stops_is_an_idle_timeout(door: Door, start: Callable) -> None:
    peer = await start(saying(OK + b"Content-Length: 10\r\n\r\nhello", close=False))
    got = await door.call(peer.url, timeouts=Timeouts(first_byte=10, idle=0.1, total=10))
    assert await got.read() == b"hello"
    with pytest.raises(UpstreamIdleTimeout):
        await got.read()
    await until(lambda: peer.open == 0)
    await got.aclose()


async def test_total_time_counts_while_the_head_is_awaited(door: Door, start: Callable) -> None:
    peer = await start(silent)
    with pytest.raises(UpstreamTotalTimeout):
        await door.fetch(peer.url, timeouts=Timeouts(first_byte=10, idle=10, total=0.1))


async def test_total_time_counts_while_the_body_trickles(door: Door, start: Callable) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        while not exchange.writer.is_closing():
            await exchange.send(b"1\r\nx\r\n")
            await asyncio.sleep(0.02)

    peer = await start(script)
    with pytest.raises(UpstreamTotalTimeout):
        await door.fetch(peer.url, timeouts=Timeouts(first_byte=10, idle=10, total=0.3))
    await until(lambda: peer.open == 0)


async def test_no_place_in_time_is_overload(transport: str, start: Callable) -> None:
    peer = await start(silent)
    settings = {"upstream_max_connections": 1, "gateway_pool_wait_seconds": 0.05, "gateway_pool_waiting": 1}
    async with client_of(transport, **settings) as client:
        waiting = asyncio.create_task(Door("open", client).fetch(peer.url))
        await until(lambda: len(peer.heads) == 1)
        for name in ("open", "http"):
            with pytest.raises(Overloaded):
                await Door(name, client).fetch(peer.url)
        assert len(peer.heads) == 1
        waiting.cancel()
        await asyncio.wait({waiting})
