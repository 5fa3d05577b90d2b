"""What an upstream may not do with a connection, and that it costs its neighbours nothing."""

import asyncio
from collections.abc import Callable

import pytest

from backend.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamGarbage,
)
from backend.services.http2 import frames

from ...support.http2_door import (
    OK,
    PATIENCE,
    data,
    door,
    head,
    literal,
    start,
)
from ...support.http2_peer import Script, Stream, listening
from ...support.peer import until
from ...support.upstream import Door

__all__ = ["door", "start"]

pytestmark = pytest.mark.asyncio


def cut(*raw: Callable[[int], bytes]) -> Script:
    async def script(stream: Stream) -> None:
        if stream.head.target == b"/bad":
            await stream.line.raw(b"".join(part(stream.id) for part in raw))
            await stream.client_left()
        elif stream.head.target == b"/held":
            await held.wait()
        await stream.reply(b"ok")

    held = asyncio.Event()
    script.held = held  # type: ignore[attr-defined]
    return script


BAD_ANSWERS = {
    "body before the head": [lambda n: data(n, b"x")],
    "no status": [lambda n: head(n, (b"a", b"b"))],
    "no field at all": [lambda n: head(n)],
    "status of letters": [lambda n: head(n, (b":status", b"abc"))],
    "status twice": [lambda n: head(n, (b":status", b"200"), (b":status", b"200"))],
    "status behind a field": [lambda n: head(n, (b"a", b"b"), (b":status", b"200"))],
    "request field": [lambda n: head(n, (b":status", b"200"), (b":path", b"/"))],
    "name in capitals": [lambda n: head(n, (b":status", b"200"), (b"Server", b"x"))],
    "space in a name": [lambda n: head(n, (b":status", b"200"), (b"a b", b"x"))],
    "line break in a value": [lambda n: head(n, (b":status", b"200"), (b"a", b"x\r\nb: c"))],
    "NUL in a value": [lambda n: head(n, (b":status", b"200"), (b"a", b"\0"))],
    "field of a connection": [lambda n: head(n, (b":status", b"200"), (b"connection", b"close"))],
    "chunks": [lambda n: head(n, (b":status", b"200"), (b"transfer-encoding", b"chunked"))],
    "two lengths": [
        lambda n: head(n, (b":status", b"200"), (b"content-length", b"1"), (b"content-length", b"2"))
    ],
    "negative length": [lambda n: head(n, (b":status", b"200"), (b"content-length", b"-1"))],
    "endless length": [lambda n: head(n, (b":status", b"200"), (b"content-length", b"1" * 5000))],
    "switch of protocol": [lambda n: head(n, (b":status", b"101"))],
    "interim answer that ends": [lambda n: head(n, (b":status", b"103"), end=True)],
    "storm of interim answers": [lambda n: head(n, (b":status", b"103")) * 200],
    "length and no body": [lambda n: head(n, (b":status", b"200"), (b"content-length", b"5"), end=True)],
    "head of 200 KiB": [lambda n: head(n, (b":status", b"200"), *[(b"a", b"x" * 2000)] * 100)],
    "window that grows by nothing": [lambda n: frames.window_update(n, 0)],
    "window over the limit": [lambda n: frames.window_update(n, 2**31 - 1)],
    "reset": [lambda n: frames.reset(n, 2)],
}


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
async def test_bad_answer_is_a_502_and_leaves_its_neighbours_alone(
    door: Door, start: Callable, answer: list[Callable[[int], bytes]]
) -> None:
    script = cut(*answer)
    peer = await start(script)
    neighbour = asyncio.create_task(door.fetch(peer.url, b"/held"))
    await until(lambda: len(peer.heads) == 1, PATIENCE)
    with pytest.raises(UpstreamError) as failed:
        await door.fetch(peer.url, b"/bad", method="POST", body=b"x")
    assert (failed.value.status, failed.value.sent) == (502, True)
    script.held.set()  # type: ignore[attr-defined]
    assert (await neighbour)[2] == b"ok"
    assert peer.connections == 1


BAD_BODIES = {
    "end before the length": [lambda n: data(n, b"", frames.END_STREAM)],
    "more than the length": [lambda n: data(n, b"x" * 20)],
    "reset": [lambda n: frames.reset(n, 2)],
    "reset without an error": [lambda n: frames.reset(n, 0)],
    "second head": [lambda n: head(n, (b":status", b"200"))],
    "status in trailers": [lambda n: head(n, (b":status", b"200"), end=True)],
    "trailers before the length": [lambda n: head(n, (b"a", b"b"), end=True)],
    "goodbye and close": [lambda n: frames.goaway(0), None],
    "close": [None],
}


@pytest.mark.parametrize("rest", BAD_BODIES.values(), ids=BAD_BODIES.keys())
async def test_cut_body_never_looks_whole(
    door: Door, start: Callable, rest: list[Callable[[int], bytes] | None]
) -> None:
    read = asyncio.Event()

    async def script(stream: Stream) -> None:
        await stream.headers([*OK, (b"content-length", b"10")])
        await stream.data(b"hello")
        await read.wait()
        for part in rest:
            if part is None:
                stream.line.close()
            else:
                await stream.line.raw(part(stream.id))

    peer = await start(script)
    got = await door.call(peer.url)
    assert await got.read() == b"hello"
    read.set()
    with pytest.raises(UpstreamBroken):
        await got.whole()


async def test_body_without_a_length_ends_with_its_stream_alone(door: Door, start: Callable) -> None:
    async def script(stream: Stream) -> None:
        await stream.headers(OK)
        await stream.data(b"hello")
        stream.line.close()

    peer = await start(script)
    with pytest.raises(UpstreamBroken):
        await door.fetch(peer.url)


VIOLATIONS = {
    "frame larger than allowed": [lambda n: data(n, b"x" * 20_000)],
    "answer on no stream": [lambda n: head(0, (b":status", b"200"))],
    "answer on a stream of the future": [lambda n: head(n + 2, (b":status", b"200"))],
    "answer on a stream of the server": [lambda n: head(2, (b":status", b"200"))],
    "push": [lambda n: frames.frame(frames.PUSH_PROMISE, frames.END_HEADERS, n, bytes(4))],
    "head that cannot be unpacked": [lambda n: frames.headers(n, b"\xff\xff\xff\xff\xff\xff\xff", 0, 16_384)],
    "frame amid a head": [lambda n: frames.frame(frames.HEADERS, 0, n, b""), lambda n: data(n, b"x")],
    "continuation of nothing": [lambda n: frames.frame(frames.CONTINUATION, 0, n, b"")],
    "head of 2 MiB": [
        lambda n: frames.headers(n, literal(b":status", b"200") + literal(b"a", b"x" * (2 << 20)), 0, 16_384)
    ],
    "more padding than frame": [lambda n: data(n, b"\xff", frames.PADDED)],
    "settings of a stream": [lambda n: frames.frame(frames.SETTINGS, 0, n)],
    "settings cut off": [lambda n: frames.frame(frames.SETTINGS, 0, 0, b"abc")],
    "window of 4 GiB": [lambda n: frames.settings({frames.INITIAL_WINDOW_SIZE: 2**32 - 1})],
    "frames of no size": [lambda n: frames.settings({frames.MAX_FRAME_SIZE: 0})],
    "wish to be pushed to": [lambda n: frames.settings({frames.ENABLE_PUSH: 1})],
    "ping of no size": [lambda n: frames.frame(frames.PING, 0, 0, b"")],
    "ping of a stream": [lambda n: frames.frame(frames.PING, 0, n, bytes(8))],
    "reset of no size": [lambda n: frames.frame(frames.RST_STREAM, 0, n, b"")],
    "reset of the future": [lambda n: frames.reset(n + 2, 0)],
    "window that grows by nothing": [lambda n: frames.window_update(0, 0)],
    "window over the limit": [lambda n: frames.window_update(0, 2**31 - 1)],
    "goodbye cut off": [lambda n: frames.frame(frames.GOAWAY, 0, 0, b"")],
    "flood of pings": [lambda n: frames.frame(frames.PING, 0, 0, bytes(8)) * 20_000],
    "flood of settings": [lambda n: frames.settings({}) * 20_000],
    "flood of nothing": [
        lambda n: head(n, (b":status", b"200")),
        lambda n: data(n, b"") * 20_000,
    ],
    "flood of unknown frames": [lambda n: frames.frame(0xEE, 0, 0) * 20_000],
    "flood of priorities": [lambda n: frames.frame(frames.PRIORITY, 0, n, bytes(5)) * 20_000],
    "flood of continuations": [
        lambda n: frames.frame(frames.HEADERS, 0, n, b""),
        lambda n: frames.frame(frames.CONTINUATION, 0, n, b"") * 20_000,
    ],
    "flood of windows": [lambda n: frames.window_update(0, 1) * 20_000],
    "flood of resets": [lambda n: frames.reset(n, 0) * 20_000],
}


@pytest.mark.parametrize("answer", VIOLATIONS.values(), ids=VIOLATIONS.keys())
async def test_peer_that_breaks_the_protocol_is_a_502_and_loses_its_connection(
    door: Door, start: Callable, answer: list[Callable[[int], bytes]]
) -> None:
    peer = await start(cut(*answer))
    with pytest.raises(UpstreamError) as failed:
        await door.fetch(peer.url, b"/bad", method="POST", body=b"x")
    assert failed.value.status == 502
    await until(lambda: peer.open == 0, PATIENCE)
    assert (await door.fetch(peer.url, b"/good"))[2] == b"ok"
    assert peer.connections == 2


async def test_data_beyond_the_window_ends_the_call_and_what_is_unread_stays_bounded(
    door: Door, start: Callable
) -> None:
    async def script(stream: Stream) -> None:
        await stream.headers(OK)
        await stream.line.raw(data(stream.id, bytes(16_384)) * 8)
        await stream.client_left()

    peer = await start(script)
    got = await door.call(peer.url)
    await until(lambda: peer.open == 0, PATIENCE)
    with pytest.raises(UpstreamBroken):
        await got.whole()
    assert peer.exchanges[0].reset_code == frames.FLOW_CONTROL_ERROR


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n", frames.frame(frames.PING, 0, 0, bytes(8))]
)
async def test_peer_that_speaks_something_else_is_garbage(door: Door, said: bytes) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await reader.read()

    async with listening(connected) as url:
        with pytest.raises(UpstreamGarbage):
            await door.fetch(url)
