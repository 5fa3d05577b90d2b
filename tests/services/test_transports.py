"""What the gateway relies on in its client, on both transports and through both doors."""

import asyncio
import gzip
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from types import ModuleType

import httpx
import pytest
import pytest_asyncio
from pyreqwest import exceptions as pyreqwest

from backend import errors
from backend.errors import (
    GatewayError,
    Overloaded,
    TooLarge,
    UpstreamBroken,
    UpstreamConnectTimeout,
    UpstreamError,
    UpstreamFirstByteTimeout,
    UpstreamGarbage,
    UpstreamIdleTimeout,
    UpstreamRefused,
    UpstreamTotalTimeout,
)
from backend.services.http_client import TIMEOUTS
from backend.services.policies import Timeouts
from backend.services.transports import MEANING, meaning_of

from ..support.gateway import free_port
from ..support.http2_peer import Http2Peer
from ..support.peer import Exchange, Peer, Script, until
from ..support.upstream import HTTP2, Door, client_of
from ..support.wire import unanswering

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


async def echo(exchange: Exchange) -> None:
    await exchange.reply(await exchange.body())


async def silent(exchange: Exchange) -> None:
    await exchange.client_left()


pytestmark = pytest.mark.asyncio

# pyreqwest 0.15 lets go of a call that is given up before its head came, but does not end it: the
# connection stands until the upstream answers.
ends_given_up_calls = pytest.mark.parametrize("transport", ["direct", HTTP2, "httpx"])
# What is wrong with the lines of HTTP/1.1; for frames see tests/services/http2.
over_lines = pytest.mark.parametrize("transport", ["direct", "reqwest", "httpx"])

# What arrives


@pytest.mark.parametrize(
    "framed",
    [
        b"Content-Length: 5\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        b"Connection: close\r\n\r\nhello",
    ],
)
async def test_body_arrives_in_every_framing(door: Door, start: Callable, framed: bytes) -> None:
    peer = await start(saying(OK + framed))
    status, _, body = await door.fetch(peer.url)
    assert (status, body) == (200, b"hello")


async def test_answer_headers_keep_order_and_duplicates(door: Door, start: Callable) -> None:
    lines = [(b"b", b"2"), (b"a", b"1"), (b"set-cookie", b"x=1"), (b"set-cookie", b"y=2"), (b"z", b"")]
    raw = b"".join(name + b": " + value + b"\r\n" for name, value in lines)
    peer = await start(saying(OK + raw + b"Content-Length: 0\r\n\r\n"))
    _, headers, _ = await door.fetch(peer.url)
    assert headers == [*lines, (b"content-length", b"0")]


async def test_first_event_arrives_before_the_second_is_sent(door: Door, start: Callable) -> None:
    arrived = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(OK + b"Transfer-Encoding: chunked\r\n\r\n6\r\ndata:1\r\n")
        await arrived.wait()
        await exchange.send(b"6\r\ndata:2\r\n0\r\n\r\n")

    peer = await start(script)
    got = await door.call(peer.url)
    assert await got.read() == b"data:1"
    arrived.set()
    assert await got.whole() == b"data:2"
    await got.aclose()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirect_is_handed_over_not_followed(door: Door, start: Callable, status: int) -> None:
    peer = await start(
        saying(b"HTTP/1.1 %d Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n" % status)
    )
    got, headers, _ = await door.fetch(peer.url)
    assert (got, dict(headers)[b"location"]) == (status, b"/elsewhere")
    assert len(peer.heads) == 1


async def test_interim_answers_are_passed_over(door: Door, start: Callable) -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    peer = await start(saying(early + OK + b"Content-Length: 2\r\n\r\nok"))
    status, headers, body = await door.fetch(peer.url)
    assert (status, body) == (200, b"ok")
    assert b"link" not in dict(headers)


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b'HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\nETag: "x"\r\n\r\n'),
    ],
)
async def test_answer_without_a_body_ends_with_its_head(
    door: Door, start: Callable, method: str, head: bytes
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(head)

    peer = await start(script)
    for _ in range(2):
        async with asyncio.timeout(5):
            _, headers, body = await door.fetch(peer.url, method=method)
        assert body == b""
        assert dict(headers).get(b"content-length") == (b"100" if b"100" in head else None)
    assert peer.connections == 1


async def test_packed_body_is_handed_over_as_it_came(door: Door, start: Callable) -> None:
    packed = gzip.compress(b"hello" * 100)

    async def script(exchange: Exchange) -> None:
        await exchange.reply(packed, (b"Content-Encoding", b"gzip"))

    peer = await start(script)
    _, headers, body = await door.fetch(peer.url)
    assert body == packed
    assert dict(headers)[b"content-encoding"] == b"gzip"


@pytest.mark.parametrize("size", [0, 1, 65_536, 3 * MEGABYTE])
async def test_body_goes_up_and_comes_back_whole(door: Door, start: Callable, size: int) -> None:
    peer = await start(echo)
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    _, _, body = await door.fetch(peer.url, method="POST", body=content)
    assert body == content


# What is said


async def test_forwarded_call_says_nothing_of_its_own(transport: str, start: Callable) -> None:
    peer = await start(echo)
    headers = (
        (b"x-b", b"2"),
        (b"accept", b"*/*"),
        (b"user-agent", b"browser"),
        (b"x-a", b"1"),
        (b"content-type", b"text/plain"),
    )
    async with client_of(transport) as client:
        await Door("open", client).fetch(peer.url, headers=headers)
    said = [(name.lower(), value) for name, value in peer.heads[0].headers]
    assert [pair for pair in said if pair[0] != b"host"] == list(headers)
    assert peer.heads[0].all(b"host") == [f"127.0.0.1:{peer.port}".encode()]


async def test_repeated_header_goes_up_as_several_lines(transport: str, start: Callable) -> None:
    peer = await start(echo)
    headers = ((b"x-b", b"2"), (b"x-a", b"1"), (b"x-b", b"3"), (b"x-b", b"2"))
    async with client_of(transport) as client:
        await Door("open", client).fetch(peer.url, headers=headers)
    assert peer.heads[0].all(b"x-b") == [b"2", b"3", b"2"]


async def test_own_call_names_the_gateway_and_asks_for_plain_bytes(transport: str, start: Callable) -> None:
    peer = await start(echo)
    async with client_of(transport) as client:
        await Door("http", client).fetch(peer.url)
    said = {name.lower(): value for name, value in peer.heads[0].headers}
    assert said == {
        b"host": f"127.0.0.1:{peer.port}".encode(),
        b"accept": b"*/*",
        b"accept-encoding": b"identity",
        b"user-agent": b"avatar-gateway",
    }


TARGETS = [
    b"/",
    b"//a//b/",
    b"/a%2fb%2Fc%7e~%41",
    b"/caf%c3%a9/%E4%b8%ad",
    b"/a?b=c&&=&b=%20+%27",
    b"/a?q='single'",
    b"/it's",
    b'/a|b{c}`^"<>',
    b'/a?x={"k":[1|2]}&y=`^\\',
    b"/a?",
    b"/a??b?",
    b"/a;v=1/(x)!$*,:@&=+",
    b"/100%/%zz?%",
    b"/[::1]/a",
    b"/x@127.0.0.1:1/",
    b"/...",
    b"/a/.hidden/b..",
]


@pytest.mark.parametrize("target", TARGETS)
async def test_target_travels_byte_for_byte(transport: str, start: Callable, target: bytes) -> None:
    peer = await start(echo)
    async with client_of(transport) as client:
        await Door("open", client).fetch(peer.url, target)
    assert peer.heads[0].target == target


@pytest.mark.parametrize("value", [b"caf\xe9", b"caf\xc3\xa9", b"\xff\xfe", "化身".encode(), b"a\tb"])
async def test_header_value_travels_byte_for_byte(transport: str, start: Callable, value: bytes) -> None:
    peer = await start(echo)
    async with client_of(transport) as client:
        await Door("open", client).fetch(peer.url, headers=((b"x-name", value),))
    assert peer.heads[0].all(b"x-name") == [value]


async def test_known_length_goes_up_as_content_length_and_once(door: Door, start: Callable) -> None:
    peer = await start(echo)
    headers = ((b"content-length", b"3"),) if door.name == "open" else ()
    await door.fetch(peer.url, method="POST", headers=headers, body=b"abc")
    assert peer.heads[0].all(b"content-length") == [b"3"]
    assert peer.heads[0].all(b"transfer-encoding") == []


class Chunks:
    """A body of given chunks."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = list(chunks)

    async def read(self) -> bytes:
        return self._chunks.pop(0) if self._chunks else b""

    async def aclose(self) -> None:
        return None


@pytest.mark.parametrize("declared", [True, False])
async def test_streamed_body_keeps_its_framing(transport: str, start: Callable, declared: bool) -> None:
    peer = await start(echo)
    headers = ((b"content-length", b"6"),) if declared else ()
    async with client_of(transport) as client:
        _, _, body = await Door("open", client).fetch(
            peer.url, method="PUT", headers=headers, body=Chunks(b"abc", b"d", b"ef")
        )
    assert body == b"abcdef"
    assert peer.heads[0].all(b"content-length") == ([b"6"] if declared else [])
    assert peer.heads[0].all(b"transfer-encoding") == ([] if declared or transport == HTTP2 else [b"chunked"])


async def test_no_proxy_of_the_environment_is_used(
    transport: str, start: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, peer = await start(echo), await start(echo)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with client_of(transport) as client:
        for name in ("open", "http"):
            await Door(name, client).fetch(peer.url)
        # The few calls that take the other way out of the Rust client.
        await Door("open", client).fetch(peer.url, b"/?q='")
    assert (proxy.heads, len(peer.heads)) == ([], 3)


async def test_cookie_of_one_answer_is_not_sent_with_the_next_call(door: Door, start: Callable) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.reply(b"ok", (b"Set-Cookie", b"visitor=a; Path=/"), (b"Set-Cookie", b"b=2"))

    peer = await start(script)
    for _ in range(2):
        await door.fetch(peer.url)
    assert [head.get(b"cookie") for head in peer.heads] == [None, None]


# What goes wrong


async def refusing() -> str:
    return f"http://127.0.0.1:{free_port()}"


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


# What is released


async def test_connection_is_used_again(door: Door, start: Callable) -> None:
    framed = [
        b"Content-Length: 2\r\n\r\nok",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"Content-Length: 0\r\n\r\n",
    ]

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.send(OK + framed[exchange.number % 3])

    peer = await start(script)
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
        "first byte": Timeouts(0.1, 10),
        "total": Timeouts(10, 10, total=0.1),
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
        limits = Timeouts(first_byte=0.2, idle=10, total=20)
        got = await Door("open", client).call(peer.url, method="POST", body=body, timeouts=limits)
        assert await got.read() == b"first"
        rest = asyncio.create_task(got.whole())
        # Longer than the first byte may take: with the head it has come.
        assert not (await asyncio.wait({rest}, timeout=0.4))[0]
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


async def settled(value: Callable[[], int]) -> None:
    """Wait until a number has not moved for a while."""
    before, still = value(), 0
    async with asyncio.timeout(10):
        while still < 15:
            await asyncio.sleep(0.02)
            still = still + 1 if value() == before else 0
            before = value()


# The table of meanings


def exceptions_of(module: ModuleType) -> list[type[Exception]]:
    return [
        kind
        for name, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, Exception) and kind.__module__.split(".")[0] == module.__name__.split(".")[0]
    ]


FOREIGN = [*exceptions_of(httpx), *exceptions_of(pyreqwest)]


@pytest.mark.parametrize("kind", FOREIGN, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
async def test_every_exception_of_the_client_libraries_has_a_meaning(kind: type[Exception]) -> None:
    assert issubclass(MEANING[kind], GatewayError)


async def test_the_libraries_exceptions_are_found_at_all() -> None:
    assert {httpx.ConnectError, httpx.CookieConflict, pyreqwest.ConnectError} <= set(FOREIGN)
    assert len(FOREIGN) > 40


async def test_class_that_is_newer_than_the_table_means_what_its_parent_means() -> None:
    class NewConnectError(httpx.ConnectError):
        pass

    assert type(meaning_of(NewConnectError("x"))) is UpstreamRefused


@pytest.mark.parametrize("kind", [kind for kind in MEANING if not MEANING[kind].__dict__.get("sent", True)])
async def test_only_failures_to_connect_count_as_never_sent(kind: type[Exception]) -> None:
    assert "Connect" in kind.__name__


@pytest.mark.parametrize(
    "kind", sorted(set(MEANING.values()), key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__
)
async def test_timeouts_are_called_so(kind: type[GatewayError]) -> None:
    assert ("timeout" in kind().msg) == (kind.status == 504)


async def test_every_gateway_timeout_has_its_own_code() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and getattr(k, "status", 0) == 504]
    assert len({kind.code for kind in kinds}) == len(kinds) == 4
    assert UpstreamGarbage not in kinds


async def test_front_door_without_limits_of_its_own_has_some(transport: str, start: Callable) -> None:
    peer = await start(echo)
    async with client_of(transport) as client:
        answer = await client.http.get(peer.url)
        assert answer.status_code == 200
        assert TIMEOUTS not in answer.request.extensions
