"""The same application on Granian, as a process: what the bridge promises on Hypercorn holds here, too."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.support.gateway import mount, raw, spawned
from tests.support.peer import Exchange, Peer, Script, until


@contextlib.asynccontextmanager
async def granian_over(
    tmp_path: Path, script: Script, **environment: str
) -> AsyncIterator[tuple[Peer, httpx.AsyncClient, int]]:
    """A gateway on Granian that mounts a scripted peer at /m."""
    async with Peer(script) as peer:
        mounts = json.dumps([mount("/m", peer.url, methods=["GET", "HEAD", "POST"])])
        with spawned(tmp_path, "--server=granian", GATEWAY_MOUNTS=mounts, **environment) as gateway:
            port = gateway.port
            async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=20) as http:
                yield peer, http, port
            log = gateway.log
    assert "Traceback" not in log.read_text(), log.read_text()


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.asyncio
async def test_granian_sends_the_first_event_while_the_second_is_not_there_yet(tmp_path: Path) -> None:
    second = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(STREAM + b"9\r\ndata: 1\n\n\r\n")
        await second.wait()
        await exchange.send(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

    async with (
        granian_over(tmp_path, script) as (_, http, _port),
        http.stream("GET", "/m/events") as answer,
    ):
        chunks = answer.aiter_raw()
        assert await anext(chunks) == b"data: 1\n\n"
        second.set()
        assert b"".join([chunk async for chunk in chunks]) == b"data: 2\n\n"


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.asyncio
async def test_a_client_that_leaves_granian_ends_the_call_upstream(tmp_path: Path, begun: bool) -> None:
    left = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        if begun:
            await exchange.send(STREAM + b"9\r\ndata: 1\n\n\r\n")
        await exchange.client_left()
        left.set()

    async with granian_over(tmp_path, script) as (peer, _, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /m/x HTTP/1.1\r\nHost: x\r\n\r\n")
        await (reader.readuntil(b"data: 1") if begun else until(lambda: len(peer.heads) == 1))
        writer.close()
        await asyncio.wait_for(left.wait(), 5)


@pytest.mark.asyncio
async def test_a_client_that_leaves_granian_amid_its_upload_ends_the_call_upstream(tmp_path: Path) -> None:
    arrived, left = asyncio.Event(), asyncio.Event()

    async def script(exchange: Exchange) -> None:
        assert await exchange.reader.readexactly(100_000)
        arrived.set()
        await exchange.client_left()
        left.set()

    async with granian_over(tmp_path, script) as (_, http, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /m/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 100_000)
        await asyncio.wait_for(arrived.wait(), 5)
        writer.close()
        await asyncio.wait_for(left.wait(), 5)
        assert (await http.get("/api/ping")).status_code == 200


@pytest.mark.asyncio
async def test_granian_answers_head_without_a_body_and_goes_on(tmp_path: Path) -> None:
    async def script(exchange: Exchange) -> None:
        whole = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"
        await exchange.send(whole if exchange.head.method == b"HEAD" else whole + b"abc")

    async with granian_over(tmp_path, script) as (_, _http, port):
        head = b"HEAD /m/x HTTP/1.1\r\nHost: x\r\n\r\n"
        get = b"GET /m/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        answer = await raw(port, head + get)
    first, second, body = answer.split(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 200")
    assert b"content-length: 3" in first.lower()
    assert second.startswith(b"HTTP/1.1 200")
    assert body == b"abc"


@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
@pytest.mark.asyncio
async def test_an_answer_that_breaks_never_looks_whole_on_granian(tmp_path: Path, framing: bytes) -> None:
    async def script(exchange: Exchange) -> None:
        half = b"4\r\nhalf\r\n" if b"chunked" in framing else b"half"
        await exchange.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + half)
        await asyncio.sleep(0.05)
        exchange.reset()

    async with granian_over(tmp_path, script) as (_, http, port):
        answer = await raw(port, b"GET /m/x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"half" in answer
        assert not answer.endswith(b"0\r\n\r\n")
        assert (await http.get("/api/ping")).status_code == 200


@pytest.mark.asyncio
async def test_granian_declines_a_websocket(tmp_path: Path) -> None:
    async def script(exchange: Exchange) -> None:
        raise AssertionError("nothing is asked upstream")

    async with granian_over(tmp_path, script) as (_, http, port):
        answer = await raw(
            port,
            b"GET /m/chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            read=12,
        )
        assert answer == b"HTTP/1.1 403"
        assert (await http.get("/api/ping")).status_code == 200


@pytest.mark.asyncio
async def test_fifty_calls_wait_together_on_granian(tmp_path: Path) -> None:
    all_here = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        if len(peer.heads) == 50:
            all_here.set()
        await all_here.wait()
        await exchange.reply(exchange.head.target)

    async with granian_over(tmp_path, script) as (peer, http, _):
        answers = await asyncio.gather(*(http.get(f"/m/{number}") for number in range(50)))
        assert [answer.text for answer in answers] == [f"/{number}" for number in range(50)]


@pytest.mark.asyncio
async def test_an_answer_that_breaks_before_its_body_is_cut_off_and_not_made_up(tmp_path: Path) -> None:
    """Granian 2.8 answers 500 by itself when only a head was sent."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        await asyncio.sleep(0.05)
        exchange.reset()

    async with granian_over(tmp_path, script) as (_, http, port):
        answer = await raw(port, b"GET /m/x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b"\r\n\r\n")
        assert (await http.get("/api/ping")).status_code == 200
