"""When clients' connections wait and end: leavers, takers of nothing, time, the end of the server."""

import asyncio
import contextlib
import socket
import struct
from typing import Any

import pytest

from backend.clients.connection import HIGH_WATER_BYTES
from tests.support.application import GET, POST, App, closed, echo, reply, served, start
from tests.support.peer import until
from tests.support.wire import calling

# Who leaves, and who takes nothing


async def until_left(app: App, receive: Any, send: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    app.left += 1


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
