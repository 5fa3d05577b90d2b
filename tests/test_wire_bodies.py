"""Bodies and their framing through a served gateway between raw sockets, on each transport."""

import asyncio
import gzip

import pytest

from tests.support.mounted import MEGABYTE, OK, Wire, gateway, transport, wire
from tests.support.peer import Exchange, echo

__all__ = ["gateway", "transport", "wire"]

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3 * MEGABYTE])
@pytest.mark.parametrize("chunked", [False, True])
async def test_body_goes_up_and_comes_back_whole(wire: Wire, size: int, chunked: bool) -> None:
    content = (bytes(range(256)) * (size // 256 + 1))[:size]
    if chunked:
        framed = b"%x\r\n%b\r\n" % (size, content) if size else b""
        line = (b"Transfer-Encoding", b"chunked")
        reply = await wire.call(b"/open/a", line, method=b"POST", body=framed + b"0\r\n\r\n")
    else:
        reply = await wire.call(b"/open/a", method=b"POST", body=content)
    assert reply.body == content
    assert reply.complete
    assert (wire.last.get(b"content-length") is None) == chunked
    assert (wire.last.get(b"transfer-encoding") == b"chunked") == chunked


async def test_length_is_kept_when_known_and_chunked_when_not(wire: Wire) -> None:
    reply = await wire.call(b"/open/a", method=b"POST", body=b"abc")
    assert reply.all(b"content-length") == [b"3"]
    assert reply.all(b"transfer-encoding") == []
    wire.say(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
    reply = await wire.call()
    assert (reply.all(b"content-length"), reply.all(b"transfer-encoding")) == ([], [b"chunked"])
    assert reply.body == b"ok"
    wire.say(OK + b"\r\nuntil closed", then="close")
    reply = await wire.call()
    assert (reply.all(b"transfer-encoding"), reply.body) == ([b"chunked"], b"until closed")


async def test_packed_body_and_its_header_pass_untouched(wire: Wire) -> None:
    packed = gzip.compress(b"hello" * 1000)
    wire.say(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed)
    for wanted in ((), ((b"Accept-Encoding", b"gzip, br;q=0.1"),)):
        reply = await wire.call(b"/open/a", *wanted)
        assert reply.body == packed
        assert reply.get(b"content-encoding") == b"gzip"
        assert wire.last.all(b"accept-encoding") == [value for _, value in wanted]


async def test_packed_request_body_passes_untouched(wire: Wire) -> None:
    packed = gzip.compress(b"hello" * 1000)
    reply = await wire.call(b"/open/a", (b"Content-Encoding", b"gzip"), method=b"POST", body=packed)
    assert reply.body == packed
    assert wire.last.get(b"content-encoding") == b"gzip"


@pytest.mark.parametrize(
    ("method", "head"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        (b"HEAD", b"HTTP/1.1 404 Not Found\r\nContent-Length: 10\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"POST", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n'),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n"),
    ],
)
async def test_answers_without_a_body_have_none_and_keep_the_connection(
    wire: Wire, method: bytes, head: bytes
) -> None:
    wire.say(head)
    async with wire.calling() as caller:
        for _ in range(2):
            await caller.ask(b"/open/a", method=method, body=b"" if method == b"POST" else None)
            reply = await caller.reply(method)
            assert reply.status == int(head[9:12])
            assert reply.get(b"transfer-encoding") is None
            if method == b"HEAD":
                assert reply.get(b"content-length") == head.split(b": ")[1].split(b"\r\n")[0]
        wire.play(echo)
        await caller.ask(b"/open/a", method=b"POST", body=b"next")
        assert (await caller.reply()).body == b"next"


async def test_ranges_pass(wire: Wire) -> None:
    wire.say(
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 2-4/10\r\nAccept-Ranges: bytes\r\n"
        b"Content-Length: 3\r\n\r\ncde"
    )
    reply = await wire.call(b"/open/a", (b"Range", b"bytes=2-4"), (b"If-Range", b'"x"'))
    assert (reply.status, reply.body) == (206, b"cde")
    assert (reply.get(b"content-range"), reply.get(b"accept-ranges")) == (b"bytes 2-4/10", b"bytes")
    assert (wire.last.get(b"range"), wire.last.get(b"if-range")) == (b"bytes=2-4", b'"x"')


async def test_client_that_waits_for_leave_to_send_gets_it(wire: Wire) -> None:
    async with wire.calling() as caller:
        await caller.ask(b"/open/a", (b"Expect", b"100-continue"), (b"Content-Length", b"3"), method=b"POST")
        assert await caller.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 \r\n\r\n"
        await caller.say(b"abc")
        assert (await caller.reply()).body == b"abc"
    assert wire.last.get(b"expect") is None


async def test_interim_answers_of_the_upstream_do_not_confuse_the_final_one(wire: Wire) -> None:
    wire.say(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
        OK + b"Content-Length: 2\r\n\r\nok",
    )
    reply = await wire.call()
    assert (reply.status, reply.body, reply.get(b"link")) == (200, b"ok", None)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
async def test_redirects_are_relayed(wire: Wire, status: int) -> None:
    wire.say(b"HTTP/1.1 %d Go\r\nLocation: http://else.test/a?b\r\nContent-Length: 0\r\n\r\n" % status)
    reply = await wire.call()
    assert (reply.status, reply.get(b"location")) == (status, b"http://else.test/a?b")
    assert len(wire.peer.heads) == 1


@pytest.mark.parametrize("status", [200, 201, 299, 400, 401, 404, 418, 429, 500, 502, 503, 599])
async def test_any_final_status_is_relayed_with_its_body(wire: Wire, status: int) -> None:
    wire.say(b"HTTP/1.1 %d Word\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\nno" % status)
    reply = await wire.call()
    assert (reply.status, reply.body, reply.get(b"retry-after")) == (status, b"no", b"7")


async def test_first_event_arrives_before_the_second_is_sent(wire: Wire) -> None:
    arrived = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        await exchange.send(b"9\r\ndata: 1\n\n\r\n")
        await arrived.wait()
        await exchange.send(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

    wire.play(script)
    async with wire.calling() as caller:
        await caller.ask(b"/open/events")
        await caller.head()
        assert await caller.chunk() == b"data: 1\n\n"
        arrived.set()
        assert await caller.chunk() == b"data: 2\n\n"
        assert await caller.chunk() == b""


async def test_part_of_an_upload_arrives_before_the_next_is_sent(wire: Wire) -> None:
    first = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        parts = [await exchange.chunk()]
        first.set()
        while chunk := await exchange.chunk():
            parts.append(chunk)
        await exchange.reply(b"|".join(parts))

    wire.play(script)
    async with wire.calling() as caller:
        await caller.ask(b"/open/a", (b"Transfer-Encoding", b"chunked"), method=b"POST")
        await caller.say(b"3\r\nabc\r\n")
        async with asyncio.timeout(5):
            await first.wait()
        await caller.say(b"3\r\ndef\r\n0\r\n\r\n")
        assert (await caller.reply()).body == b"abc|def"
