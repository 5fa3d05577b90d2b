"""Requests and answers on clients' connections on real sockets."""

import asyncio
import gc
import socket
from typing import Any

import pytest

from backend.clients.connection import Connection
from tests.support.application import GET, POST, App, closed, echo, reply, served, start
from tests.support.wire import calling


@pytest.mark.asyncio
async def test_scope_is_the_one_that_hypercorn_makes_and_tells_of_departures() -> None:
    app = App(echo)
    async with served(app, root_path="/r") as port, calling(port) as caller:
        await caller.ask(b"/a%20b/%C3%A9?q=%20", (b"X-B", b"2"))
        await caller.reply()
        client = caller.writer.get_extra_info("sockname")
    assert callable(app.scopes[0]["extensions"].pop("departure"))
    assert app.scopes == [
        {
            "type": "http",
            "http_version": "1.1",
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "method": "GET",
            "scheme": "http",
            "path": "/a b/é",
            "raw_path": b"/a%20b/%C3%A9",
            "query_string": b"q=%20",
            "root_path": "/r",
            "headers": [(b"host", b"gateway.test"), (b"x-b", b"2")],
            "client": client,
            "server": ("127.0.0.1", port),
            "state": {"opened": True},
            "extensions": {},
        }
    ]


@pytest.mark.asyncio
async def test_pipelined_requests_are_answered_in_order_one_after_another() -> None:
    busy = 0

    async def slow(app: App, receive: Any, send: Any) -> None:
        nonlocal busy
        busy += 1
        assert busy == 1
        body = await app.read(receive)
        await asyncio.sleep(0)
        busy -= 1
        await reply(send, body)

    async with served(App(slow)) as port, calling(port) as caller:
        await caller.say(b"".join(POST + b"4\r\n\r\n%04d" % number for number in range(500)))
        assert [(await caller.reply()).body for _ in range(500)] == [b"%04d" % n for n in range(500)]


@pytest.mark.asyncio
async def test_leave_to_send_is_given_when_the_application_begins_to_read() -> None:
    go = asyncio.Event()

    async def waits(app: App, receive: Any, send: Any) -> None:
        await go.wait()
        await echo(app, receive, send)

    async with served(App(waits)) as port, calling(port) as caller:
        await caller.say(POST + b"5\r\nExpect: 100-continue\r\n\r\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(caller.reader.readexactly(1), 0.1)
        go.set()
        assert await caller.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 \r\n\r\n"
        await caller.say(b"hello")
        assert (await caller.reply()).body == b"hello"


@pytest.mark.asyncio
async def test_answer_without_a_length_comes_in_chunks_as_it_is_made() -> None:
    second = asyncio.Event()

    async def streams(app: App, receive: Any, send: Any) -> None:
        await start(send)
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await second.wait()
        await send({"type": "http.response.body", "body": b"two"})

    async with served(App(streams)) as port, calling(port) as caller:
        await caller.say(GET)
        assert (await caller.head()).get(b"transfer-encoding") == b"chunked"
        assert await caller.chunk() == b"one"
        second.set()
        assert [await caller.chunk(), await caller.chunk()] == [b"two", b""]


@pytest.mark.asyncio
async def test_head_of_an_answer_arrives_before_its_body_is_there() -> None:
    go = asyncio.Event()

    async def late(app: App, receive: Any, send: Any) -> None:
        await start(send)
        await go.wait()
        await send({"type": "http.response.body", "body": b"x"})

    async with served(App(late)) as port, calling(port) as caller:
        await caller.say(GET)
        assert (await caller.head()).status == 200
        go.set()
        assert await caller.chunk() == b"x"


@pytest.mark.asyncio
async def test_client_of_http_1_0_keeps_its_connection_if_it_asks_for_it() -> None:
    async with served(App(echo)) as port:
        async with calling(port) as caller:
            await caller.say(b"GET / HTTP/1.0\r\n\r\n")
            assert (await caller.reply()).get(b"connection") == b"close"
            assert await closed(caller) == b""
        async with calling(port) as caller:
            for _ in range(2):
                await caller.say(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
                assert (await caller.reply()).get(b"connection") == b"keep-alive"


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.asyncio
async def test_answer_that_the_application_leaves_unfinished_never_looks_whole(version: bytes) -> None:
    async def ends(app: App, receive: Any, send: Any) -> None:
        await start(send)
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        await asyncio.sleep(0.05)

    async with served(App(ends)) as port, calling(port) as caller:
        await caller.say(b"GET / HTTP/" + version + b"\r\nHost: x\r\n\r\n")
        got = await closed(caller)
    assert got.endswith(b"4\r\nhalf\r\n") if version == b"1.1" else got == b"reset"


@pytest.mark.parametrize("declared", [b"3", b"9"])
@pytest.mark.asyncio
async def test_answer_of_another_length_than_declared_breaks_its_connection(declared: bytes) -> None:
    async def wrong(app: App, receive: Any, send: Any) -> None:
        await start(send, (b"content-length", declared))
        await send({"type": "http.response.body", "body": b"hello"})

    async with served(App(wrong)) as port, calling(port) as caller:
        await caller.say(GET + GET)
        assert b"hello" not in await closed(caller)


@pytest.mark.asyncio
async def test_application_that_fails_before_its_answer_is_a_500_and_no_more() -> None:
    async def fails(app: App, receive: Any, send: Any) -> None:
        raise RuntimeError("secret")

    async with served(App(fails)) as port, calling(port) as caller:
        await caller.say(GET + GET)
        got = await closed(caller)
    assert got.startswith(b"HTTP/1.1 500")
    assert got.count(b"HTTP/1.1") == 1
    assert b"secret" not in got


@pytest.mark.asyncio
async def test_header_value_with_a_line_end_reaches_nobody() -> None:
    async def splits(app: App, receive: Any, send: Any) -> None:
        await start(send, (b"x", b"a\r\nset-cookie: b"))

    async with served(App(splits)) as port, calling(port) as caller:
        await caller.say(GET)
        got = await closed(caller)
    assert got.startswith(b"HTTP/1.1 500")
    assert b"set-cookie" not in got


@pytest.mark.asyncio
async def test_body_that_dribbles_is_delivered_in_order() -> None:
    async with served(App(echo)) as port, calling(port) as caller:
        await caller.say(POST + b"200\r\n\r\n")
        for number in range(100):
            await caller.say(b"%02d" % number)
        assert (await caller.reply()).body == b"".join(b"%02d" % number for number in range(100))


@pytest.mark.asyncio
async def test_early_answer_arrives_although_the_client_still_sends() -> None:
    async def early(app: App, receive: Any, send: Any) -> None:
        await reply(send, b"no")

    async with served(App(early)) as port, calling(port) as caller:
        caller.writer.write(POST + b"%d\r\n\r\n" % (8 << 20) + bytes(8 << 20))
        reply_ = await caller.reply()
        assert (reply_.status, reply_.body) == (200, b"no")
        assert await closed(caller) == b""


@pytest.mark.asyncio
async def test_accepted_sockets_send_at_once_and_probe_silent_clients() -> None:
    options: list[tuple[int, int]] = []

    async def look(app: App, receive: Any, send: Any) -> None:
        gc.collect()  # those of other tests
        (connection,) = [thing for thing in gc.get_objects() if isinstance(thing, Connection)]
        sock = socket.socket(fileno=socket.dup(connection.fileno))
        options.append(
            (
                sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
                sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            )
        )
        sock.close()
        await reply(send, b"")

    async with served(App(look)) as port, calling(port) as caller:
        await caller.say(GET)
        await caller.reply()
    assert options == [(1, 1)]
