"""Many connections to one upstream: how calls are spread over them, and what a bad one does to the rest."""

import asyncio
from collections.abc import Callable

import h2.settings
import pytest

from backend.errors import Overloaded, UpstreamConnectTimeout, UpstreamRefused
from backend.services.http2 import frames
from tests.support.http2_door import start
from tests.support.http2_peer import Stream, listening
from tests.support.peer import until
from tests.support.ports import free_port
from tests.support.upstream import HTTP2, Door, client_of

__all__ = ["start"]

pytestmark = pytest.mark.asyncio

PATIENCE = 15.0


class Gate:
    """A script that answers nobody until so many calls are there."""

    def __init__(self, calls: int) -> None:
        self._calls = calls
        self._there = 0
        self.opened = asyncio.Event()

    async def __call__(self, stream: Stream) -> None:
        self._there += 1
        if self._there >= self._calls:
            self.opened.set()
        await self.opened.wait()
        await stream.reply(b"ok")


async def quick(stream: Stream) -> None:
    await stream.reply(b"ok")


@pytest.mark.parametrize(("streams", "least", "most"), [(100, 5, 6), (10, 50, 56), (1000, 5, 6)])
async def test_500_calls_wait_side_by_side_at_an_upstream_that_allows_few_on_a_connection(
    start: Callable, streams: int, least: int, most: int
) -> None:
    peer = await start(Gate(500), streams=streams)
    async with client_of(HTTP2) as client, asyncio.timeout(60):
        door = Door("open", client)
        await asyncio.gather(*(door.fetch(peer.url) for _ in range(500)))
        assert least <= peer.connections <= most
        assert max(len(line.streams) for line in peer.lines) <= min(streams, 100)


async def test_burst_shares_the_connection_that_is_being_opened(start: Callable) -> None:
    peer = await start(Gate(50))
    async with client_of(HTTP2) as client:
        await asyncio.gather(*(Door("open", client).fetch(peer.url) for _ in range(50)))
    assert peer.connections == 1


async def test_next_connection_is_there_before_streams_run_out(start: Callable) -> None:
    gate = Gate(1000)
    peer = await start(gate)
    async with client_of(HTTP2) as client:
        calls = [asyncio.create_task(Door("open", client).fetch(peer.url)) for _ in range(92)]
        await until(lambda: len(peer.heads) == 92, PATIENCE)
        await until(lambda: peer.connections == 2, PATIENCE)
        assert len(peer.lines[0].streams) == 92
        gate.opened.set()
        await asyncio.gather(*calls)


async def test_limit_may_change_at_any_time(start: Callable) -> None:
    gate = Gate(1000)
    peer = await start(gate)
    async with client_of(HTTP2) as client:
        door = Door("open", client)
        calls = [asyncio.create_task(door.fetch(peer.url)) for _ in range(3)]
        await until(lambda: len(peer.heads) == 3, PATIENCE)
        peer.streams = 2
        peer.lines[0].h2.update_settings({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 2})
        await peer.lines[0].flush()
        await until(lambda: peer.lines[0].h2.local_settings.max_concurrent_streams == 2, PATIENCE)
        calls += [asyncio.create_task(door.fetch(peer.url)) for _ in range(4)]
        await until(lambda: len(peer.heads) == 7, PATIENCE)
        assert [len(line.streams) for line in peer.lines] == [3, 2, 2]
        gate.opened.set()
        await asyncio.gather(*calls)


async def test_call_waits_for_room_when_there_may_be_no_more_connections(start: Callable) -> None:
    gate = Gate(1000)
    peer = await start(gate, streams=2)
    async with client_of(HTTP2, gateway_http2_connections=1) as client:
        calls = [asyncio.create_task(Door("open", client).fetch(peer.url)) for _ in range(6)]
        await until(lambda: len(peer.heads) == 2, PATIENCE)
        await asyncio.sleep(0.05)
        assert (len(peer.heads), peer.connections) == (2, 1)
        calls[0].cancel()
        await until(lambda: len(peer.heads) == 3, PATIENCE)
        gate.opened.set()
        answers = await asyncio.gather(*calls[1:])
        assert [body for _, _, body in answers] == [b"ok"] * 5
        assert peer.connections == 1


@pytest.mark.parametrize("streams", [0, 1])
async def test_no_room_in_time_is_overload(start: Callable, streams: int) -> None:
    peer = await start(Gate(1000), streams=streams)
    limits = {"gateway_http2_connections": 2, "gateway_pool_wait_seconds": 0.2}
    async with client_of(HTTP2, **limits) as client:
        held = [asyncio.create_task(Door("open", client).fetch(peer.url)) for _ in range(2 * streams)]
        await until(lambda: len(peer.heads) == 2 * streams, PATIENCE)
        with pytest.raises(Overloaded):
            await Door("open", client).fetch(peer.url)
        for call in held:
            call.cancel()
        await asyncio.gather(*held, return_exceptions=True)
    assert peer.connections <= 2


async def test_idle_connections_are_closed(start: Callable) -> None:
    peer = await start(quick)
    async with client_of(HTTP2, upstream_keepalive_seconds=0.2) as client:
        await Door("open", client).fetch(peer.url)
        await until(lambda: not peer._tasks, PATIENCE)
        assert peer.connections == 1
        await Door("open", client).fetch(peer.url)
        assert peer.connections == 2


async def test_connection_in_use_is_not_idle(start: Callable) -> None:
    async def script(stream: Stream) -> None:
        await asyncio.sleep(0.5)
        await stream.reply(b"ok")

    peer = await start(script)
    async with client_of(HTTP2, upstream_keepalive_seconds=0.1) as client:
        assert (await Door("open", client).fetch(peer.url))[2] == b"ok"


async def test_lost_connection_takes_only_its_own_calls_along(start: Callable) -> None:
    gate = Gate(1000)
    peer = await start(gate, streams=10)
    async with client_of(HTTP2) as client:
        calls = [asyncio.create_task(Door("open", client).fetch(peer.url)) for _ in range(30)]
        await until(lambda: len(peer.heads) == 30, PATIENCE)
        lost = len(peer.lines[0].streams)
        peer.lines[0].abort()
        await until(lambda: sum(call.done() for call in calls) == lost, PATIENCE)
        gate.opened.set()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(answer, Exception) for answer in answers) == lost
        assert (await Door("open", client).fetch(peer.url))[2] == b"ok"


async def test_upstream_that_never_says_its_settings_was_never_sent_anything() -> None:
    received = bytearray()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65_536):
            received.extend(chunk)

    async with listening(mute) as url, client_of(HTTP2, gateway_ping_seconds=0.2) as client:
        calls = [Door("open", client).fetch(url) for _ in range(5)]
        failures = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(failure) for failure in failures] == [UpstreamConnectTimeout] * 5
    assert received.startswith(frames.PREFACE)
    assert b"127.0.0.1" not in received


@pytest.mark.parametrize("farewell", [b"", frames.frame(frames.GOAWAY, 0, 0, bytes(8))])
async def test_upstream_that_leaves_at_once_is_asked_no_more_than_it_must(farewell: bytes) -> None:
    connections = 0

    async def leaving(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(frames.settings({}) + farewell)

    async with listening(leaving) as url, client_of(HTTP2) as client:
        with pytest.raises(UpstreamRefused):
            await Door("open", client).fetch(url)
    assert connections <= 3


async def test_caller_that_leaves_while_connecting_takes_nobody_along(start: Callable) -> None:
    peer = await start(Gate(2))
    async with client_of(HTTP2) as client:
        door = Door("open", client)
        calls = [asyncio.create_task(door.fetch(peer.url)) for _ in range(3)]
        await asyncio.sleep(0)
        calls[0].cancel()
        answers = await asyncio.gather(*calls[1:])
        assert [body for _, _, body in answers] == [b"ok"] * 2
    assert (peer.connections, len(peer.heads)) == (1, 2)


async def test_everybody_who_waits_for_a_refused_connection_hears_of_it() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with client_of(HTTP2) as client:
        calls = [Door("open", client).fetch(url) for _ in range(250)]
        failures = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(failure) for failure in failures} == {UpstreamRefused}
