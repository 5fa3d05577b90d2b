"""The bridge on Hypercorn, over real sockets."""

import asyncio
import threading
from pathlib import Path

import httpx
import pytest

from backend import server
from backend.asgi import GatewayFlask
from backend.errors import UpstreamBroken
from backend.responses import GatewayResponse, StreamedResponse
from tests.support.bridge import (
    Body,
    Waiting,
    bridged,
    nothing,
    on_hypercorn,
    streaming,
    waiting_view,
)
from tests.support.gateway import mount, raw, serving, settings_for
from tests.support.http2 import Http2
from tests.support.peer import Exchange, Peer, until

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.asyncio
async def test_the_first_event_arrives_while_the_second_is_not_there_yet() -> None:
    second = asyncio.Event()
    app = streaming(Body(b"data: 1\n\n", second, b"data: 2\n\n"))
    async with (
        on_hypercorn(app.asgi) as port,
        httpx.AsyncClient(trust_env=False) as http,
        http.stream("GET", f"http://127.0.0.1:{port}/") as answer,
    ):
        chunks = answer.aiter_raw()
        assert await anext(chunks) == b"data: 1\n\n"
        second.set()
        assert await anext(chunks) == b"data: 2\n\n"


@pytest.mark.asyncio
async def test_a_closed_connection_cancels_its_view() -> None:
    waiting = Waiting()
    async with on_hypercorn(waiting_view(waiting).asgi) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        await waiting.began.wait()
        writer.close()
        await until(lambda: waiting.ended == ["cancelled", "cleaned up"])


@pytest.mark.asyncio
async def test_a_reset_http2_stream_cancels_its_view_and_leaves_its_neighbour_alone() -> None:
    waiting, go = Waiting(), asyncio.Event()

    def routes(app: GatewayFlask) -> None:
        @app.get("/for-ever")
        async def for_ever() -> str:
            return await waiting()

        @app.get("/")
        async def view() -> str:
            await go.wait()
            return "done"

    async with on_hypercorn(bridged(routes).asgi) as port, Http2(port) as http:
        left, kept = await http.get("/for-ever"), await http.get("/")
        await waiting.began.wait()
        await http.reset(left)
        await until(lambda: waiting.ended == ["cancelled", "cleaned up"])
        go.set()
        assert await http.body(kept) == b"done"


@pytest.mark.asyncio
async def test_head_and_304_leave_the_connection_usable() -> None:
    async def view(status: int) -> GatewayResponse:
        return StreamedResponse(status, [(b"content-length", b"3")], Body(b"abc"))

    app = bridged(lambda app: app.add_url_rule("/<int:status>", "view", view))
    async with on_hypercorn(app.asgi) as port:
        answer = await raw(
            port,
            b"HEAD /200 HTTP/1.1\r\nHost: x\r\n\r\n"
            b"GET /304 HTTP/1.1\r\nHost: x\r\n\r\n"
            b"GET /200 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        )
    heads = answer.split(b"\r\n\r\n")
    assert [head.split(b"\r\n")[0] for head in heads[:3]] == [
        b"HTTP/1.1 200 ",
        b"HTTP/1.1 304 ",
        b"HTTP/1.1 200 ",
    ]
    assert heads[3] == b"abc"


@pytest.mark.parametrize("framing", [(b"content-length", b"100"), (b"x-framing", b"chunked")])
@pytest.mark.asyncio
async def test_an_answer_that_breaks_never_looks_whole(framing: tuple[bytes, bytes]) -> None:
    app = streaming(Body(b"half", UpstreamBroken()), framing)
    async with on_hypercorn(app.asgi) as port:
        answer = await raw(port, GET)
    assert b"half" in answer
    assert not answer.endswith(b"0\r\n\r\n")
    assert b"500" not in answer


@pytest.mark.asyncio
async def test_a_broken_http2_stream_is_reset_and_leaves_its_neighbour_alone() -> None:
    go = asyncio.Event()
    bodies = {"broken": Body(b"half", UpstreamBroken()), "fine": Body(b"one", go, b"two")}

    async def view(name: str) -> GatewayResponse:
        return StreamedResponse(200, [], bodies[name])

    app = bridged(lambda app: app.add_url_rule("/<name>", "view", view))
    async with on_hypercorn(app.asgi) as port, Http2(port) as http:
        broken, fine = await http.get("/broken"), await http.get("/fine")
        with pytest.raises(ConnectionResetError):
            await http.body(broken)
        go.set()
        assert await http.body(fine) == b"onetwo"


@pytest.mark.asyncio
async def test_a_websocket_that_no_route_takes_is_answered_like_any_request() -> None:
    handshake = (
        b"GET /chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    async with on_hypercorn(bridged(nothing).asgi) as port:
        assert (await raw(port, handshake, read=12)) == b"HTTP/1.1 404"


# Many who leave


def threads_at_work() -> set[str]:
    """Threads besides those that pools keep for the next call."""
    kept = ("view", "database", "asyncio_", "passwords")
    return {t.name for t in threading.enumerate() if not t.name.startswith(kept)}


@pytest.mark.parametrize(("transport", "leavers"), [("direct", 990), ("reqwest", 400), ("httpx", 400)])
@pytest.mark.asyncio
async def test_crowd_that_leaves_midway_leaves_nothing_behind(
    tmp_path: Path, transport: str, leavers: int
) -> None:
    """Their calls upstream end, their places are free, and those who stay notice nothing."""
    server.allow_open_files()
    end = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        if exchange.head.target == b"/stays":
            await end.wait()
            await exchange.send(b"4\r\nlast\r\n0\r\n\r\n")
        else:
            await exchange.client_left()

    async with Peer(script) as peer:
        settings = settings_for(
            tmp_path,
            upstream_transport=transport,
            gateway_connect_seconds=20,  # a thousand clients, the gateway and the peer share one loop
            gateway_mounts=[mount("/m", peer.url)],
        )
        async with serving(settings) as served:
            slots = served.gateway.client.slots
            stay = [asyncio.create_task(served.http.get("/m/stays")) for _ in range(5)]
            await until(lambda: slots.in_use == 5)
            await asyncio.sleep(0.2)  # each of them is watched by now
            tasks, threads = len(asyncio.all_tasks()), threads_at_work()
            leave = await asyncio.gather(*(reading(served.port, b"/m/leaves") for _ in range(leavers)))
            assert slots.in_use == leavers + 5
            for writer in leave:
                writer.close()
            await until(lambda: slots.in_use == 5 and peer.open == 5, 10)
            await until(lambda: len(asyncio.all_tasks()) <= tasks, 10)
            assert threads_at_work() <= threads
            end.set()
            assert {(await answer).content for answer in stay} == {b"firstlast"}
            assert slots.free == slots.size


async def reading(port: int, path: bytes) -> asyncio.StreamWriter:
    """Ask, and return once the answer has begun to arrive."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.wait_for(reader.readuntil(b"first"), 30)
    return writer


@pytest.mark.asyncio
async def test_a_mounts_target_and_body_arrive_as_they_were_sent(tmp_path: Path) -> None:
    async def script(exchange: Exchange) -> None:
        peer.bodies.append(await exchange.body())
        await exchange.reply(b"hello")

    async with Peer(script) as peer:
        settings = settings_for(tmp_path, gateway_mounts=[mount("/m", peer.url, methods=["POST"])])
        async with serving(settings) as served:
            answer = await served.http.post("/m/x%2fy;a=b?q=1&q=%2F", content=b"abc")
    assert answer.content == b"hello"
    assert (peer.heads[0].target, peer.bodies) == (b"/x%2fy;a=b?q=1&q=%2F", [b"abc"])


@pytest.mark.asyncio
async def test_a_kept_connection_ends_with_its_client(tmp_path: Path) -> None:
    """Hypercorn 0.18 held it, and its descriptor, until the idle time was over."""
    async with serving(settings_for(tmp_path)) as served:
        before = len(asyncio.all_tasks())
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(b"GET /api/ping HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readuntil(b"pong")).startswith(b"HTTP/1.1 200")
            writer.close()
        await until(lambda: len(asyncio.all_tasks()) <= before, 3)
