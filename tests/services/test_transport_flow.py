"""What is released and what waits, on every transport and through both doors."""

import asyncio
from collections.abc import Callable

import pytest

from backend.errors import TooLarge, UpstreamRefused, UpstreamTotalTimeout
from backend.services.policies import Timeouts
from tests.support.http2_peer import Http2Peer
from tests.support.peer import Exchange, Peer, echo, in_turn, settled, silent, until
from tests.support.transports import (
    MEGABYTE,
    OK,
    door,
    ends_given_up_calls,
    refusing,
    saying,
    start,
    transport,
)
from tests.support.upstream import HTTP2, Door, Held, client_of

__all__ = ["door", "start", "transport"]

pytestmark = pytest.mark.asyncio

# What is released


async def test_connection_is_used_again(door: Door, start: Callable) -> None:
    peer = await start(in_turn)
    for number in range(9):
        await door.fetch(peer.url, method="POST" if number % 2 else "GET", body=b"x" if number % 2 else None)
    assert (len(peer.heads), peer.connections) == (9, 1)


async def test_calls_run_side_by_side(door: Door, start: Callable) -> None:
    async def script(exchange: Exchange) -> None:
        await until(lambda: len(peer.heads) >= 50, 10)
        await exchange.reply(b"ok")

    peer = await start(script)
    answers = await asyncio.gather(*(door.fetch(peer.url) for _ in range(50)))
    assert [status for status, _, _ in answers] == [200] * 50


@ends_given_up_calls
@pytest.mark.parametrize("how", ["cancelled", "first byte", "total"])
async def test_call_given_up_before_its_head_came_ends_its_connection(
    door: Door, start: Callable, how: str
) -> None:
    limits = {
        "cancelled": Timeouts(10, 10),
        # Long enough for a busy machine to get the call to the peer.
        "first byte": Timeouts(1, 10),
        "total": Timeouts(10, 10, total=1),
    }
    peer = await start(silent)
    call = asyncio.create_task(door.fetch(peer.url, timeouts=limits[how]))
    await until(lambda: len(peer.heads) == 1)
    if how == "cancelled":
        call.cancel()
    await asyncio.wait({call})
    await until(lambda: peer.open == 0, 1)


async def test_call_cancelled_while_waiting_gives_its_place_back(door: Door, start: Callable) -> None:
    peer = await start(silent)
    call = asyncio.create_task(door.fetch(peer.url))
    await until(lambda: len(peer.heads) == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert door.client.slots.in_use == 0


async def test_body_dropped_midway_closes_its_connection(door: Door, start: Callable) -> None:
    peer = await start(saying(OK + b"Content-Length: 10\r\n\r\nhello", close=False))
    got = await door.call(peer.url)
    assert await got.read() == b"hello"
    await got.aclose()
    await until(lambda: peer.open == 0, 1)
    assert door.client.slots.in_use == 0


async def test_body_that_nobody_began_to_read_is_released(door: Door, start: Callable) -> None:
    peer = await start(saying(OK + b"Content-Length: 10\r\n\r\n", close=False))
    got = await door.call(peer.url)
    assert door.client.slots.in_use == 1
    await got.aclose()
    await got.aclose()
    await until(lambda: peer.open == 0, 1)
    assert door.client.slots.in_use == 0


async def test_reading_cancelled_midway_closes_its_connection(door: Door, start: Callable) -> None:
    peer = await start(saying(OK + b"Content-Length: 10\r\n\r\nhello", close=False))
    call = asyncio.create_task(door.fetch(peer.url))
    await until(lambda: len(peer.heads) == 1 and door.client.slots.in_use == 1)
    await asyncio.sleep(0.05)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: peer.open == 0, 1)


async def test_failed_and_dropped_calls_leave_room_for_all_others(transport: str, start: Callable) -> None:
    async def script(exchange: Exchange) -> None:
        kind = exchange.head.target
        if kind == b"/reset":
            exchange.reset()
        elif kind == b"/cut":
            await exchange.send(OK + b"Content-Length: 10\r\n\r\nhello")
            exchange.writer.close()
        elif kind == b"/silent":
            await exchange.client_left()
        else:
            await exchange.reply(b"ok")

    peer = await start(script)
    async with client_of(transport, upstream_max_connections=5) as client:
        for name in ("open", "http"):
            door = Door(name, client)
            calls = [
                asyncio.create_task(door.fetch(peer.url, kind, timeouts=Timeouts(0.3, 0.3)))
                for kind in (b"/reset", b"/cut", b"/silent", b"/ok") * 5
            ]
            await asyncio.sleep(0.1)
            for call in calls[::3]:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            assert client.slots.in_use == 0
            for _ in range(4):
                answers = await asyncio.gather(*(door.fetch(peer.url, b"/ok") for _ in range(5)))
                assert {body for _, _, body in answers} == {b"ok"}


async def test_cancel_storm_leaves_the_pool_usable(door: Door, start: Callable) -> None:
    release = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        if exchange.head.target == b"/slow":
            await release.wait()
        await exchange.reply(b"ok")

    peer = await start(script)
    for _ in range(5):
        calls = [asyncio.create_task(door.fetch(peer.url, b"/slow")) for _ in range(40)]
        await asyncio.sleep(0.02)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    release.set()
    assert door.client.slots.in_use == 0
    async with asyncio.timeout(10):
        answers = await asyncio.gather(*(door.fetch(peer.url, b"/quick") for _ in range(40)))
    assert {body for _, _, body in answers} == {b"ok"}


async def test_no_task_is_left_behind(transport: str, start: Callable) -> None:
    peer = await start(echo)
    before = asyncio.all_tasks()
    async with client_of(transport) as client:
        for name in ("open", "http"):
            await Door(name, client).fetch(peer.url, method="POST", body=b"abc")
            stalled = asyncio.create_task(Door(name, client).fetch(await refusing()))
            await asyncio.wait({stalled})
            assert isinstance(stalled.exception(), UpstreamRefused)
    await until(lambda: asyncio.all_tasks() - before <= peer_tasks(peer))


def peer_tasks(peer: Peer | Http2Peer) -> set["asyncio.Task[None]"]:
    return set(peer._tasks)


# Backpressure


async def test_upstream_is_not_read_faster_than_the_answer_is_taken(door: Door, start: Callable) -> None:
    sent = 0
    total = 64 * MEGABYTE

    async def script(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.send(OK + b"Content-Length: %d\r\n\r\n" % total)
        while sent < total:
            await exchange.send(bytes(MEGABYTE))
            sent += MEGABYTE

    peer = await start(script)
    got = await door.call(peer.url)
    await got.read()
    await settled(lambda: sent)
    assert sent < 32 * MEGABYTE
    taken = 0
    while chunk := await got.read():
        taken += len(chunk)
    assert taken > 32 * MEGABYTE
    await got.aclose()


class Endless:
    """A body that counts what was taken of it."""

    taken = 0

    async def read(self) -> bytes:
        self.taken += 65_536
        return bytes(65_536)

    async def aclose(self) -> None:
        return None


async def test_upload_is_not_read_faster_than_the_upstream_takes_it(transport: str, start: Callable) -> None:
    peer = await start(lambda exchange: exchange.gone.wait())
    body = Endless()
    async with client_of(transport) as client:
        call = asyncio.create_task(Door("open", client).fetch(peer.url, method="POST", body=body))
        await until(lambda: body.taken > 0)
        await settled(lambda: body.taken)
        assert body.taken < 32 * MEGABYTE
        call.cancel()
        await asyncio.wait({call})


# httpcore reads no answer before it has sent the whole body.
@pytest.mark.parametrize("transport", ["direct", HTTP2, "reqwest"])
async def test_answer_may_begin_while_the_body_still_goes_up(transport: str, start: Callable) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        while chunk := await exchange.chunk():
            await exchange.send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        await exchange.send(b"0\r\n\r\n")

    peer = await start(script)
    body = Held()
    async with client_of(transport) as client:
        limits = Timeouts(first_byte=1, idle=10, total=20)
        got = await Door("open", client).call(peer.url, method="POST", body=body, timeouts=limits)
        assert await got.read() == b"first"
        rest = asyncio.create_task(got.whole())
        # Longer than the first byte may take: with the head it has come.
        assert not (await asyncio.wait({rest}, timeout=1.3))[0]
        body.go.set()
        assert await rest == b"second"


@pytest.mark.parametrize("transport", ["direct", HTTP2, "reqwest"])
async def test_refusal_that_comes_while_the_body_goes_up_is_the_answer(
    transport: str, start: Callable
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.chunk()
        await exchange.reply(b"too much", status=b"413 Too Large")
        await exchange.client_left()

    peer = await start(script)
    async with client_of(transport) as client, asyncio.timeout(10):
        status, _, body = await Door("open", client).fetch(peer.url, method="POST", body=Endless())
    assert (status, body) == (413, b"too much")
    await until(lambda: peer.open == 0)


@pytest.mark.parametrize("how", ["cancelled", "total"])
async def test_upload_that_is_given_up_ends_its_connection_and_reads_no_more(
    transport: str, start: Callable, how: str
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.chunk()
        arrived.set()
        await exchange.client_left()

    arrived, body = asyncio.Event(), Held()
    peer = await start(script)
    before = asyncio.all_tasks()
    async with client_of(transport) as client:
        limits = Timeouts(10, 10, total=0.3 if how == "total" else None)
        call = asyncio.create_task(
            Door("open", client).fetch(peer.url, method="POST", body=body, timeouts=limits)
        )
        await arrived.wait()
        if how == "cancelled":
            call.cancel()
        await asyncio.wait({call})
        await until(lambda: peer.open == 0, 1)
        assert isinstance(call.exception(), UpstreamTotalTimeout) if how == "total" else call.cancelled()
        await until(lambda: asyncio.all_tasks() - before <= peer_tasks(peer))
        assert len(body.parts) == 1


async def test_failure_of_the_body_is_told_as_it_was(transport: str, start: Callable) -> None:
    class Breaking:
        async def read(self) -> bytes:
            raise TooLarge("as it was")

        async def aclose(self) -> None:
            return None

    peer = await start(echo)
    async with client_of(transport) as client:
        with pytest.raises(TooLarge, match="as it was"):
            await Door("open", client).fetch(peer.url, method="POST", body=Breaking())


async def test_time_the_client_needs_for_its_body_is_not_the_upstreams(
    transport: str, start: Callable
) -> None:
    peer = await start(echo)
    body = Held()
    async with client_of(transport) as client:
        limits = Timeouts(first_byte=0.2, idle=10)
        call = asyncio.create_task(
            Door("open", client).fetch(peer.url, method="POST", body=body, timeouts=limits)
        )
        assert not (await asyncio.wait({call}, timeout=0.5))[0]
        body.go.set()
        assert (await call)[2] == b"firstsecond"
