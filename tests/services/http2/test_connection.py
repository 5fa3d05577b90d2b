"""One connection: what goes over it, and what a peer that misbehaves may not do with it."""

import asyncio
from collections.abc import Callable

import h2.events
import h2.settings
import hpack
import pytest

from backend.errors import (
    InternalError,
    UpstreamBroken,
    UpstreamRefused,
)
from backend.services.http2 import frames
from backend.services.http2.stream import FIRST_WINDOW_BYTES, LARGEST_WINDOW_BYTES
from backend.services.policies import Timeouts

from ...support.http2_door import (
    MEGABYTE,
    OK,
    PATIENCE,
    door,
    echo,
    head,
    start,
)
from ...support.http2_peer import Stream, listening
from ...support.peer import until
from ...support.upstream import HTTP2, Door, client_of

__all__ = ["door", "start"]

pytestmark = pytest.mark.asyncio

# What is said


async def test_answer_tells_its_version_and_keeps_order_and_duplicates(door: Door, start: Callable) -> None:
    lines = [(b"b", b"2"), (b"set-cookie", b"x=1"), (b"a", b""), (b"set-cookie", b"y=2")]

    async def script(stream: Stream) -> None:
        await stream.reply(b"ok", *lines)

    peer = await start(script)
    got = await door.call(peer.url)
    assert got._source.http_version == "HTTP/2"
    assert got.headers == [(b"content-length", b"2"), *lines]
    assert await got.whole() == b"ok"


async def test_request_says_what_http2_wants_and_nothing_of_http1(door: Door, start: Callable) -> None:
    peer = await start(echo)
    peer.strict = True
    of_http1 = ((b"connection", b"close"), (b"host", b"other"), (b"te", b"gzip"), (b"upgrade", b"h2c"))
    await door.fetch(peer.url, b"/a?b", headers=(*of_http1, (b"x-a", b"1")))
    requests = [one for one in peer.lines[0].events if isinstance(one, h2.events.RequestReceived)]
    assert [(bytes(name), bytes(value)) for name, value in requests[0].headers] == [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":authority", f"127.0.0.1:{peer.port}".encode()),
        (b":path", b"/a?b"),
        (b"x-a", b"1"),
    ]


async def test_secrets_are_marked_as_never_to_be_indexed(door: Door, start: Callable) -> None:
    peer = await start(echo)
    await door.fetch(peer.url, headers=((b"authorization", b"Bearer x"), (b"cookie", b"a=b"), (b"x", b"y")))
    requests = [one for one in peer.lines[0].events if isinstance(one, h2.events.RequestReceived)]
    marked = {
        bytes(pair[0]) for pair in requests[0].headers if isinstance(pair, hpack.NeverIndexedHeaderTuple)
    }
    assert marked == {b"authorization", b"cookie"}


@pytest.mark.parametrize("bad", [(b"x", b"a\r\nb"), (b"x", b"a\0"), (b"X-Upper", b"a"), (b"", b"a")])
async def test_header_that_no_message_may_carry_is_never_sent(
    door: Door, start: Callable, bad: tuple[bytes, bytes]
) -> None:
    peer = await start(echo)
    with pytest.raises(InternalError):
        await door.fetch(peer.url, headers=(bad,))
    assert peer.heads == []


async def test_large_header_goes_up_in_continuations(door: Door, start: Callable) -> None:
    peer = await start(echo)
    await door.fetch(peer.url, headers=((b"x-large", b"x" * 40_000),))
    assert peer.heads[0].get(b"x-large") == b"x" * 40_000


async def test_trailers_end_the_body_and_are_dropped(door: Door, start: Callable) -> None:
    async def script(stream: Stream) -> None:
        await stream.headers(OK)
        await stream.data(b"body")
        await stream.headers([(b"grpc-status", b"0")], end=True)

    peer = await start(script)
    status, headers, body = await door.fetch(peer.url)
    assert (status, headers, body) == (200, [], b"body")


# How a call ends


@pytest.mark.parametrize("how", ["before the head", "after the head"])
async def test_call_given_up_is_reset_at_once_and_its_connection_goes_on(
    door: Door, start: Callable, how: str
) -> None:
    async def script(stream: Stream) -> None:
        if stream.head.target == b"/left":
            if how == "after the head":
                await stream.headers(OK)
            await stream.client_left()
        await stream.reply(b"ok")

    peer = await start(script)
    call = asyncio.create_task(door.fetch(peer.url, b"/left"))
    await until(lambda: len(peer.heads) == 1, PATIENCE)
    await asyncio.sleep(0.05)
    call.cancel()
    await asyncio.wait({call})
    async with asyncio.timeout(PATIENCE):
        await peer.exchanges[0].gone.wait()
    assert peer.exchanges[0].reset_code == frames.CANCEL
    assert (await door.fetch(peer.url))[2] == b"ok"
    assert peer.connections == 1


async def test_whole_answer_whose_end_comes_late_is_not_reset(door: Door, start: Callable) -> None:
    go = asyncio.Event()

    async def script(stream: Stream) -> None:
        await stream.headers([*OK, (b"content-length", b"2")])
        await stream.data(b"ok")
        await go.wait()
        await stream.data(b"", end=True)

    peer = await start(script)
    assert (await door.fetch(peer.url))[2] == b"ok"
    go.set()
    await until(lambda: peer.open == 0, PATIENCE)
    await door.fetch(peer.url)
    assert (peer.exchanges[0].reset_code, peer.connections) == (None, 1)


async def test_whole_answer_that_never_ends_is_reset_after_a_while(door: Door, start: Callable) -> None:
    async def script(stream: Stream) -> None:
        await stream.headers([*OK, (b"content-length", b"2")])
        await stream.data(b"ok")
        await stream.client_left()

    peer = await start(script)
    assert (await door.fetch(peer.url))[2] == b"ok"
    await until(lambda: peer.open == 0, PATIENCE)
    assert peer.exchanges[0].reset_code == frames.CANCEL


async def test_upload_that_an_early_answer_made_needless_is_no_error(door: Door, start: Callable) -> None:
    class Endless:
        async def read(self) -> bytes:
            await asyncio.sleep(0)
            return bytes(1000)

        async def aclose(self) -> None:
            return None

    async def script(stream: Stream) -> None:
        await stream.reply(b"no")
        await stream.client_left()

    peer = await start(script)
    assert (await door.fetch(peer.url, method="POST", body=Endless()))[2] == b"no"
    await until(lambda: peer.open == 0, PATIENCE)
    assert peer.exchanges[0].reset_code == frames.NO_ERROR


# Goodbyes


async def test_calls_that_a_leaving_server_looked_at_are_finished(door: Door, start: Callable) -> None:
    go = asyncio.Event()

    async def script(stream: Stream) -> None:
        if stream.head.target == b"/first":
            await go.wait()
        await stream.reply(b"ok")

    peer = await start(script)
    first = asyncio.create_task(door.fetch(peer.url, b"/first"))
    await until(lambda: len(peer.heads) == 1, PATIENCE)
    await peer.lines[0].raw(goodbye(1))
    assert (await door.fetch(peer.url, b"/second"))[2] == b"ok"
    assert peer.connections == 2
    go.set()
    assert (await first)[2] == b"ok"


def goodbye(last: int, code: int = 0) -> bytes:
    return frames.frame(frames.GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big"))


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("how", ["goodbye", "refused"])
async def test_call_that_was_not_looked_at_is_sent_once_more(
    door: Door, start: Callable, method: str, how: str
) -> None:
    async def script(stream: Stream) -> None:
        if stream.number > 1:
            await stream.reply(await stream.body())
        elif how == "goodbye":
            await stream.line.raw(goodbye(0))
        else:
            stream.reset(frames.REFUSED_STREAM)

    peer = await start(script)
    body = b"x" if method == "POST" else None
    assert (await door.fetch(peer.url, method=method, body=body))[2] == (body or b"")
    assert len(peer.heads) == 2


async def test_call_that_is_never_looked_at_was_never_sent(door: Door, start: Callable) -> None:
    async def script(stream: Stream) -> None:
        stream.reset(frames.REFUSED_STREAM)

    peer = await start(script)
    with pytest.raises(UpstreamRefused) as failed:
        await door.fetch(peer.url)
    assert (failed.value.sent, len(peer.heads)) == (False, 2)


@pytest.mark.parametrize("how", ["goodbye", "reset"])
async def test_call_that_may_have_been_looked_at_is_not_repeated_here(
    door: Door, start: Callable, how: str
) -> None:
    async def script(stream: Stream) -> None:
        if how == "goodbye":
            await stream.line.raw(goodbye(stream.id))
            stream.line.close()
        else:
            stream.reset(2)

    peer = await start(script)
    with pytest.raises(UpstreamBroken) as failed:
        await door.fetch(peer.url, method="POST", body=b"x")
    assert (failed.value.sent, len(peer.heads)) == (True, 1)


# Windows


async def test_reader_that_stalls_stops_its_own_stream_early_and_no_other(
    door: Door, start: Callable
) -> None:
    sent: dict[int, int] = {}

    async def script(stream: Stream) -> None:
        await stream.headers(OK)
        if stream.head.target == b"/small":
            await stream.data(b"ok", end=True)
            return
        for _ in range(64):
            await stream.data(bytes(65_536))
            sent[stream.id] = sent.get(stream.id, 0) + 65_536
        await stream.data(b"", end=True)

    peer = await start(script)
    stalled = [await door.call(peer.url, b"/large") for _ in range(40)]
    answers = await asyncio.gather(*(door.fetch(peer.url, b"/small") for _ in range(50)))
    assert {body for _, _, body in answers} == {b"ok"}
    assert peer.connections == 1
    # Nobody waited for more of them: each was allowed its first window and no byte more.
    assert max(sent.values(), default=0) <= FIRST_WINDOW_BYTES + 1
    assert len(await stalled[0].whole()) == 64 * 65_536
    for got in stalled:
        await got.aclose()


async def test_reader_that_waits_gets_a_larger_window(door: Door, start: Callable) -> None:
    async def script(stream: Stream) -> None:
        await stream.headers(OK)
        await stream.data(bytes(8 * MEGABYTE), end=True)

    peer = await start(script)
    assert len((await door.fetch(peer.url))[2]) == 8 * MEGABYTE
    widened = [
        event.delta
        for event in peer.lines[0].events
        if isinstance(event, h2.events.WindowUpdated) and event.stream_id
    ]
    assert max(widened) > LARGEST_WINDOW_BYTES // 2
    assert max(widened) <= LARGEST_WINDOW_BYTES


async def test_large_bodies_pass_many_times_the_connections_window(door: Door, start: Callable) -> None:
    async def script(stream: Stream) -> None:
        await stream.headers(OK)
        for _ in range(40):
            await stream.data(bytes(MEGABYTE))
        await stream.data(b"", end=True)

    peer = await start(script)
    taken = 0
    got = await door.call(peer.url)
    while chunk := await got.read():
        assert len(chunk) <= LARGEST_WINDOW_BYTES
        taken += len(chunk)
    assert taken == 40 * MEGABYTE


async def test_uploads_share_a_window_that_shrinks_and_grows(door: Door, start: Callable) -> None:
    async def script(stream: Stream) -> None:
        if stream.head.target == b"/0":
            settings = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1000}
            stream.line.h2.update_settings(settings)
            await stream.line.flush()
        body = await stream.body()
        await stream.reply(b"%d" % len(body))

    peer = await start(script, settings={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 100_000})
    calls = [
        door.fetch(peer.url, b"/%d" % number, method="POST", body=b"x" * 200_000) for number in range(10)
    ]
    answers = await asyncio.gather(*calls)
    assert [body for _, _, body in answers] == [b"200000"] * 10


# A peer that is there and is not


async def test_silent_connection_that_answers_no_ping_gets_no_new_calls() -> None:
    """Its calls go on by their own clocks: they may be answered yet."""
    answer = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        writer.write(frames.settings({}))
        if len(connections) == 1:
            await answer.wait()
        else:
            await reader.readuntil(b"/second")
        writer.write(head(1, (b":status", b"204"), end=True))
        await reader.read()

    connections: list[asyncio.StreamWriter] = []
    async with listening(deaf) as url, client_of(HTTP2, gateway_ping_seconds=0.1) as client:
        door = Door("open", client)
        first = asyncio.create_task(door.fetch(url, b"/first"))
        await until(lambda: bool(connections), PATIENCE)
        await asyncio.sleep(0.5)
        assert (await door.fetch(url, b"/second"))[0] == 204
        assert len(connections) == 2
        assert not first.done()
        answer.set()
        assert (await first)[0] == 204


async def test_connection_that_answers_pings_is_kept_however_long_it_computes(start: Callable) -> None:
    async def script(stream: Stream) -> None:
        await asyncio.sleep(0.6)
        await stream.reply(b"ok")

    peer = await start(script)
    async with client_of(HTTP2, gateway_ping_seconds=0.1) as client:
        door = Door("open", client)
        slow = asyncio.create_task(door.fetch(peer.url))
        await asyncio.sleep(0.4)
        await door.fetch(peer.url, timeouts=Timeouts(10, 10))
        await slow
    assert peer.connections == 1
    assert any(isinstance(event, h2.events.PingReceived) for event in peer.lines[0].events)
