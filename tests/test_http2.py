"""HTTP/2 on Hypercorn: streams that wait for nobody, bodies of any size, ends that are told."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from backend.errors import UpstreamBroken
from backend.http2 import frames
from backend.http2.flow import GROWTH, MOST_STREAM_WINDOW, Growth, StreamReceipts
from backend.http2.frames import END_STREAM, Code, ConnectionFault
from backend.http2.patience import ODD_FRAMES, RESETS, Patience
from tests.conformance.client import Client, Target
from tests.conformance.pieces import Head, data, rst_stream, window_update
from tests.support.bridge import Body, on_hypercorn, streaming
from tests.support.gateway import raw
from tests.support.peer import until

MIB = 1024 * 1024


class Application:
    """An ASGI application: uploads that stall until let go, downloads that count what they were let send."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.held = asyncio.Event()
        self.sent = 0
        self.left = 0
        self.headers: list[tuple[bytes, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.complete"})
            return
        self.headers = scope["headers"]
        await getattr(self, scope["path"].strip("/"))(receive, send)

    async def hold(self, receive: Any, send: Any) -> None:
        """Read a little of a body, then nothing until let go."""
        await receive()
        self.held.set()
        await self.go.wait()
        await self.length(receive, send)

    async def length(self, receive: Any, send: Any) -> None:
        total, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left += 1
                return
            total += len(message["body"])
            more = message["more_body"]
        await answer(send, b"%d" % total)

    async def early(self, receive: Any, send: Any) -> None:
        """Answer without a look at the body."""
        await answer(send, b"no need")

    async def endless(self, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(256):
            await send({"type": "http.response.body", "body": bytes(MIB), "more_body": True})
            self.sent += MIB
        await send({"type": "http.response.body", "body": b""})

    async def wait(self, receive: Any, send: Any) -> None:
        self.held.set()
        await self.go.wait()
        await answer(send, b"done")

    async def leave(self, receive: Any, send: Any) -> None:
        self.held.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        self.left += 1

    async def broken(self, receive: Any, send: Any) -> None:
        raise RuntimeError("a mistake")


async def answer(send: Any, body: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"Connection", b"close")]})
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def talking(path: str = "/length", **settings: int) -> AsyncIterator[tuple[Application, Client, Head]]:
    app = Application()
    async with on_hypercorn(app) as port:
        target = Target("127.0.0.1", port, get=path, post=path, patience=20)
        async with Client(target) as client:
            await client.shake_hands(**settings)
            yield app, client, Head(target)
        app.go.set()


def to(head: Head, path: str) -> Head:
    """The same head, for another path."""
    return Head(Target(*_address(head), get=path, post=path))


def _address(head: Head) -> tuple[str, int]:
    host, port = head.authority.decode().split(":")
    return host, int(port)


async def upload(client: Client, stream: int, total: int) -> int:
    """Send a body as fast as the windows allow; returns the widest the stream's window was."""
    sent = widest = 0
    while sent < total:
        room = frames.DEFAULT_WINDOW + client.windows.get(stream, 0) - sent
        widest = max(widest, room)
        if room <= 0:
            opened = client.windows.get(stream, 0)
            assert await client.until(lambda opened=opened: client.windows.get(stream, 0) > opened)
            continue
        chunk = min(room, total - sent, frames.FRAME_BYTES)
        sent += chunk
        await client.send(data(stream, bytes(chunk), END_STREAM if sent == total else 0))
        await asyncio.sleep(0)
    return widest


@pytest.mark.asyncio
async def test_a_stalled_upload_and_a_stalled_download_leave_fifty_others_untouched() -> None:
    """Hypercorn 0.18 read nothing more of a connection once eleven chunks of one upload were not read."""
    async with talking() as (app, client, head):
        await client.send(window_update(0, 2**30), to(head, "/endless").get(1))  # its window stays as it is
        await client.send(to(head, "/hold").post(3), *[data(3, bytes(5_000))] * 13)
        await app.held.wait()
        streams = range(5, 105, 2)
        await client.send(*(head.post(stream) for stream in streams))
        await asyncio.gather(*(upload(client, stream, 200_000) for stream in streams))
        assert await client.until(lambda: all(client.answer(stream).ended for stream in streams))
        assert {bytes(client.answer(stream).body) for stream in streams} == {b"200000"}
        assert not client.answer(3).ended
        app.go.set()
        await client.send(data(3, b"", END_STREAM))
        assert await client.until(lambda: client.answer(3).ended)


@pytest.mark.asyncio
async def test_an_upload_that_is_not_read_is_held_to_its_window() -> None:
    async with talking("/hold") as (app, client, head):
        await client.send(head.post(1), data(1, bytes(10_000)))
        await app.held.wait()
        await client.send(*[data(1, bytes(11_107))] * 5)  # 65,535 in all
        assert await client.is_alive()
        assert 1 not in client.windows
        await client.send(data(1, b"x"))
        assert await client.until(lambda: client.answer(1).reset == Code.FLOW_CONTROL_ERROR)


@pytest.mark.asyncio
async def test_the_window_of_a_body_that_is_read_grows_to_a_mebibyte() -> None:
    async with talking() as (_, client, head):
        await client.send(head.post(1))
        widest = await upload(client, 1, 16 * MIB)
        assert await client.until(lambda: client.answer(1).ended)
        assert bytes(client.answer(1).body) == b"%d" % (16 * MIB)
        assert MOST_STREAM_WINDOW // 2 <= widest <= MOST_STREAM_WINDOW


@pytest.mark.asyncio
async def test_a_download_goes_no_faster_than_it_is_taken() -> None:
    async with talking("/endless") as (app, client, head):
        await client.send(head.get(1))
        assert await client.until(lambda: len(client.answer(1).body) == frames.DEFAULT_WINDOW)
        assert await client.is_alive()
        assert app.sent == 0  # the first chunk is not whole
        await client.send(window_update(0, 3 * MIB), window_update(1, 3 * MIB))
        assert await client.until(lambda: len(client.answer(1).body) == frames.DEFAULT_WINDOW + 3 * MIB)
        assert app.sent == 3 * MIB
        await client.send(window_update(0, 2**30), window_update(1, 2**30))
        assert await client.until(lambda: client.answer(1).ended)
        assert len(client.answer(1).body) == 256 * MIB


@pytest.mark.asyncio
async def test_streams_share_the_connections_window() -> None:
    """None of them gets it all, however early it came."""
    async with talking("/endless", INITIAL_WINDOW_SIZE=2**30) as (_, client, head):
        await client.send(*(head.get(stream) for stream in (1, 3, 5)))
        assert await client.until(lambda: all(client.answer(stream).fields for stream in (1, 3, 5)))
        await client.send(window_update(0, 30 * frames.FRAME_BYTES))
        total = frames.DEFAULT_WINDOW + 30 * frames.FRAME_BYTES
        bodies = [client.answer(stream).body for stream in (1, 3, 5)]
        assert await client.until(lambda: sum(map(len, bodies)) == total)
        assert min(map(len, bodies)) >= 9 * frames.FRAME_BYTES


@pytest.mark.asyncio
async def test_an_answer_before_the_body_stops_the_body_and_nothing_else() -> None:
    """RFC 9113, section 8.1: a whole answer, then RST_STREAM with NO_ERROR."""
    async with talking("/early") as (_, client, head):
        await client.send(head.post(1), data(1, b"begun"))
        assert await client.until(lambda: client.answer(1).reset is not None)
        assert client.answer(1).ended
        assert client.answer(1).reset == Code.NO_ERROR
        assert bytes(client.answer(1).body) == b"no need"
        await client.send(data(1, b"under way"), to(head, "/length").get(3))
        assert await client.until(lambda: client.answer(3).ended)


@pytest.mark.asyncio
async def test_who_expects_100_continue_is_told_when_the_body_is_wanted() -> None:
    async with talking() as (_, client, head):
        await client.send(head.post(1, (b"expect", b"100-continue")))
        assert await client.until(lambda: client.answer(1).status == 100)
        await client.send(data(1, b"four", END_STREAM))
        assert await client.until(lambda: client.answer(1).ended)
        assert [value for name, value in client.answer(1).fields if name == b":status"] == [b"100", b"200"]


@pytest.mark.asyncio
async def test_cookies_and_authority_reach_the_application_as_http1_would_bring_them() -> None:
    async with talking() as (app, client, head):
        await client.send(head.get(1, (b"cookie", b"a=1"), (b"x-kept", b"yes"), (b"cookie", b"b=2")))
        assert await client.until(lambda: client.answer(1).ended)
        assert app.headers == [(b"host", head.authority), (b"x-kept", b"yes"), (b"cookie", b"a=1; b=2")]
        assert b"connection" not in dict(client.answer(1).fields)


@pytest.mark.asyncio
async def test_an_application_that_fails_is_a_500_and_leaves_the_connection_usable() -> None:
    async with talking("/broken") as (_, client, head):
        await client.send(head.get(1), to(head, "/length").get(3))
        assert await client.until(lambda: client.answer(1).ended and client.answer(3).ended)
        assert (client.answer(1).status, client.answer(3).status) == (500, 200)


@pytest.mark.asyncio
async def test_a_connection_is_idle_again_after_an_answer_that_broke_off() -> None:
    app = streaming(Body(b"half", UpstreamBroken()))
    before = len(asyncio.all_tasks())
    async with contextlib.AsyncExitStack() as stack:
        serving = contextlib.AsyncExitStack()
        port = await serving.enter_async_context(on_hypercorn(app.asgi))
        target = Target("127.0.0.1", port, get="/")
        client = await stack.enter_async_context(Client(target))
        await client.shake_hands()
        await client.send(Head(target).get(1))
        assert await client.until(lambda: client.answer(1).reset == Code.INTERNAL_ERROR)
        assert await client.is_alive()
        async with asyncio.timeout(4):  # an idle connection does not hold up the stop, 5 s of grace would
            await serving.aclose()
        assert await client.until(lambda: client.closed)
    assert len(asyncio.all_tasks()) <= before


@pytest.mark.asyncio
async def test_a_reset_and_a_lost_connection_reach_the_application() -> None:
    async with talking("/leave") as (app, client, head):
        await client.send(*(head.get(stream) for stream in (1, 3, 5)))
        await app.held.wait()
        await client.send(rst_stream(3))
        await until(lambda: app.left == 1)
        client.writer.transport.abort()
        await until(lambda: app.left == 3)


@pytest.mark.asyncio
async def test_a_stopping_server_finishes_what_it_began_and_refuses_the_rest() -> None:
    app = Application()
    async with contextlib.AsyncExitStack() as stack:
        serving = contextlib.AsyncExitStack()
        port = await serving.enter_async_context(on_hypercorn(app))
        target = Target("127.0.0.1", port, get="/wait", patience=20)
        client = await stack.enter_async_context(Client(target))
        await client.shake_hands()
        await client.send(Head(target).get(1))
        await app.held.wait()
        stopping = asyncio.create_task(serving.aclose())
        await asyncio.sleep(0.2)
        await client.send(Head(target).get(3))
        assert await client.until(lambda: client.answer(3).reset == Code.REFUSED_STREAM)
        assert client.goaway == (1, Code.NO_ERROR, b"")
        app.go.set()
        assert await client.until(lambda: client.answer(1).ended)
        assert await client.until(lambda: client.closed)
        await stopping


@pytest.mark.asyncio
async def test_upgrade_to_h2c_is_ignored() -> None:
    """Two servers in a row could disagree about where requests begin."""
    async with on_hypercorn(Application()) as port:
        answer = await raw(
            port,
            b"GET /early HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings, close\r\n"
            b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        )
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"no need" in answer


def test_patience_refills_with_time_and_is_earned_by_sending() -> None:
    now = [0.0]
    patience = Patience(lambda: now[0])
    for _ in range(RESETS):
        patience.reset()
    with pytest.raises(ConnectionFault):
        patience.reset()
    now[0] += 1
    patience.reset()
    for _ in range(ODD_FRAMES):
        patience.odd()
    patience.earn()
    patience.odd()


def test_windows_of_unread_bodies_stay_and_those_of_read_ones_grow_as_far_as_all_may() -> None:
    growth = Growth()
    windows = [StreamReceipts(growth) for _ in range(40)]
    for window in windows:
        for _ in range(40):
            window.read(MIB)
    assert growth.left == 0
    for window in windows:
        window.release()
    assert growth.left == GROWTH
