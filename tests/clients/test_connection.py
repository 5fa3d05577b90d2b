"""Clients' connections on real sockets, with the smallest applications behind them."""

import asyncio
import contextlib
import gc
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypercorn.config import Config

from backend import server
from backend.clients.connection import HIGH_WATER_BYTES, Connection
from backend.clients.server import serve
from backend.config import load
from tests.support.peer import until
from tests.support.wire import Caller, calling

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: "


class App:
    """An application whose `answer` a test gives; keeps what each call was told."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.scopes: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []
        self.left = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                await receive()
                scope["state"]["opened"] = True
                await send({"type": f"lifespan.{phase}.complete"})
            return
        self.scopes.append(scope)
        await self.answer(self, receive, send)

    async def read(self, receive: Any) -> bytes:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left += 1
                raise ConnectionError
            body += message["body"]
            if not message["more_body"]:
                self.bodies.append(body)
                return body


async def start(send: Any, *headers: tuple[bytes, bytes], status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def reply(send: Any, body: bytes) -> None:
    await start(send, (b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.body", "body": body})


async def echo(app: App, receive: Any, send: Any) -> None:
    await reply(send, await app.read(receive))


async def until_left(app: App, receive: Any, send: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    app.left += 1


def config(**over: Any) -> Config:
    made = server.hypercorn_config(load({}, None, gateway_drain_seconds=5.0))
    for name, value in over.items():
        setattr(made, name, value)
    return made


@contextlib.asynccontextmanager
async def served(app: App, *, stop: asyncio.Event | None = None, **over: Any) -> AsyncIterator[int]:
    sock = server.listen(load({}, None, port=0))
    stop = stop or asyncio.Event()
    serving = asyncio.create_task(serve(app, config(**over), sock, stop))
    try:
        yield sock.getsockname()[1]
    finally:
        stop.set()
        await serving


async def closed(caller: Caller) -> bytes:
    """Return what comes before the server closes."""
    try:
        return await caller.reader.read(-1)
    except ConnectionResetError:
        return b"reset"


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
async def test_an_application_is_told_at_once_that_its_client_left_and_never_of_a_whole_answer() -> None:
    told: list[str] = []

    async def waits(app: App, receive: Any, send: Any) -> None:
        scope = app.scopes[-1]
        path = scope["path"]
        scope["extensions"]["departure"](lambda: told.append(path))
        if path == "/answered":
            await echo(app, receive, send)
        else:
            await asyncio.sleep(30)

    async with served(App(waits)) as port:
        async with calling(port) as caller:
            await caller.ask(b"/answered")
            await caller.reply()
        async with calling(port) as caller:
            await caller.ask(b"/waiting")
            await asyncio.sleep(0.1)
            assert told == []
            caller.writer.transport.abort()
        await until(lambda: told == ["/waiting"])


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


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.asyncio
async def test_client_that_leaves_is_told_at_once(how: str) -> None:
    app = App(until_left)
    async with served(app) as port, calling(port) as caller:
        await caller.say(GET)
        await until(lambda: len(app.scopes) == 1)
        caller.reset() if how == "reset" else caller.writer.close()
        await until(lambda: app.left == 1, 10)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.asyncio
async def test_client_that_leaves_behind_an_unread_body_is_noticed(how: str) -> None:
    """The server has stopped reading: the system knows of the close all the same."""
    told = asyncio.Event()

    async def reads_late(app: App, receive: Any, send: Any) -> None:
        await told.wait()
        assert (await receive())["type"] == "http.disconnect"
        app.left += 1

    app = App(reads_late)
    async with served(app) as port, calling(port) as caller:
        caller.writer.write(POST + b"%d\r\n\r\n" % (1 << 40) + bytes(HIGH_WATER_BYTES * 2))
        await caller.writer.drain()
        await until(lambda: len(app.scopes) == 1)
        await asyncio.sleep(0.1)
        caller.reset() if how == "reset" else caller.writer.close()
        await asyncio.sleep(1.2)  # two looks
        told.set()
        await until(lambda: app.left == 1, 10)


@pytest.mark.asyncio
async def test_unread_body_is_read_ahead_only_so_far() -> None:
    go = asyncio.Event()
    sizes: list[int] = []

    async def reads_late(app: App, receive: Any, send: Any) -> None:
        await go.wait()
        sizes.append(len((await receive())["body"]))
        while (await receive())["more_body"]:
            pass
        await reply(send, b"")

    size = 64 << 20
    async with served(App(reads_late)) as port, calling(port) as caller:
        caller.writer.write(POST + b"%d\r\n\r\n" % size + bytes(size))
        await asyncio.sleep(0.3)
        go.set()
        assert (await caller.reply()).status == 200
    assert HIGH_WATER_BYTES < sizes[0] <= HIGH_WATER_BYTES * 2 + 1024


@pytest.mark.asyncio
async def test_body_that_dribbles_is_delivered_in_order() -> None:
    async with served(App(echo)) as port, calling(port) as caller:
        await caller.say(POST + b"200\r\n\r\n")
        for number in range(100):
            await caller.say(b"%02d" % number)
        assert (await caller.reply()).body == b"".join(b"%02d" % number for number in range(100))


@pytest.mark.asyncio
async def test_sending_waits_for_a_client_that_takes_nothing() -> None:
    sent = 0

    async def streams(app: App, receive: Any, send: Any) -> None:
        nonlocal sent
        await start(send)
        for _ in range(1000):
            await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
            sent += 1
        await send({"type": "http.response.body"})

    async with served(App(streams)) as port, calling(port, receive_buffer=16384) as caller:
        await caller.say(GET)
        await until(lambda: sent > 0)
        await asyncio.sleep(0.3)
        held = sent
        await asyncio.sleep(0.3)
        assert sent == held < 500
        await caller.head()
        for _ in range(held + 10):
            assert await caller.chunk() == bytes(65536)
        assert sent > held


@pytest.mark.asyncio
async def test_early_answer_arrives_although_the_client_still_sends() -> None:
    async def early(app: App, receive: Any, send: Any) -> None:
        await reply(send, b"no")

    async with served(App(early)) as port, calling(port) as caller:
        caller.writer.write(POST + b"%d\r\n\r\n" % (8 << 20) + bytes(8 << 20))
        reply_ = await caller.reply()
        assert (reply_.status, reply_.body) == (200, b"no")
        assert await closed(caller) == b""


# Time


@pytest.mark.asyncio
async def test_idle_connection_is_closed_and_one_in_use_is_not() -> None:
    async def slow(app: App, receive: Any, send: Any) -> None:
        await asyncio.sleep(1.5)
        await reply(send, b"late")

    async with (
        served(App(slow), keep_alive_timeout=0.5) as port,
        calling(port) as fresh,
        calling(port) as used,
    ):
        await used.say(GET)
        assert await closed(fresh) == b""
        assert (await used.reply()).body == b"late"
        assert await closed(used) == b""


@pytest.mark.parametrize("before", [b"", GET])
@pytest.mark.asyncio
async def test_head_that_does_not_arrive_in_time_is_answered_408(
    monkeypatch: pytest.MonkeyPatch, before: bytes
) -> None:
    """The time runs from its first byte, however many follow, on fresh connections and on kept ones."""
    monkeypatch.setattr("backend.clients.connection.HEAD_SECONDS", 0.5)
    async with served(App(echo)) as port, calling(port) as caller:
        if before:
            await caller.say(before)
            await caller.reply()

        async def dribble() -> None:
            with contextlib.suppress(ConnectionError):
                for byte in GET[:-2] + b"X: " + b"a" * 1000:
                    await caller.say(bytes([byte]))
                    await asyncio.sleep(0.05)

        dribbling = asyncio.create_task(dribble())
        got = await closed(caller)
        dribbling.cancel()
        assert got.startswith(b"HTTP/1.1 408")


@pytest.mark.asyncio
async def test_connection_ends_after_its_last_allowed_request() -> None:
    async with served(App(echo), keep_alive_max_requests=2) as port, calling(port) as caller:
        await caller.say(GET * 3)
        assert (await caller.reply()).get(b"connection") is None
        assert (await caller.reply()).get(b"connection") == b"close"
        assert await closed(caller) == b""


# The end of the server


@pytest.mark.asyncio
async def test_stop_closes_idle_connections_and_lets_busy_ones_finish() -> None:
    go, stop = asyncio.Event(), asyncio.Event()

    async def waits(app: App, receive: Any, send: Any) -> None:
        await go.wait()
        await reply(send, b"done")

    app = App(waits)
    async with served(app, stop=stop) as port, calling(port) as idle, calling(port) as busy:
        await busy.say(GET + GET)
        await until(lambda: len(app.scopes) == 1)
        stop.set()
        assert await closed(idle) == b""
        go.set()
        last = await busy.reply()
        assert (last.body, last.get(b"connection")) == (b"done", b"close")
        assert await closed(busy) == b""
    assert len(app.scopes) == 1


@pytest.mark.asyncio
async def test_stop_cuts_what_does_not_end_within_the_grace() -> None:
    stop = asyncio.Event()
    ended: list[str] = []

    async def hangs(app: App, receive: Any, send: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cleaned up")

    app = App(hangs)
    async with served(app, stop=stop, graceful_timeout=0.2) as port, calling(port) as caller:
        await caller.say(GET)
        await until(lambda: len(app.scopes) == 1)
        stop.set()
        assert await closed(caller) in (b"", b"reset")
        await until(lambda: ended == ["cleaned up"], 10)


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


@pytest.mark.asyncio
async def test_many_small_requests_cost_no_memory_when_nobody_takes_the_answers() -> None:
    """A client that pipelines without end is read only so far."""
    app = App(echo)

    async def waits(app: App, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    app.answer = waits
    async with served(app, graceful_timeout=0.1) as port:
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setblocking(False)
        sent = 0
        for _ in range(100):
            with contextlib.suppress(BlockingIOError):
                sent += sock.send(GET * 10_000)
            await asyncio.sleep(0.01)
        assert len(app.scopes) == 1
        assert sent < 20 << 20  # what the system's own buffers hold
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
