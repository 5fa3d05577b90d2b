"""The whole gateway in front of an upstream that speaks HTTP/2."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from backend.services.http2 import frames
from tests.support.gateway import mount, serving, settings_for, spawned
from tests.support.http2_peer import Http2Peer, Stream
from tests.support.peer import until

pytestmark = pytest.mark.asyncio

MEGABYTE = 1 << 20
PATIENCE = 20.0
OK = [(b":status", b"200")]


def settings(folder: Path, peer: Http2Peer, **over: object) -> object:
    methods = ["GET", "POST"]
    return settings_for(
        folder, gateway_mounts=[mount("/up", peer.url, http_version="2", methods=methods, **over)]
    )


async def test_calls_wait_side_by_side_and_say_nothing_of_either_hop(tmp_path: Path) -> None:
    async def script(stream: Stream) -> None:
        await until(lambda: len(peer.heads) >= 95, PATIENCE)
        await stream.reply(b"ok", (b"x-a", b"b"))

    async with Http2Peer(script) as peer, serving(settings(tmp_path, peer)) as gateway:
        peer.strict = True
        answers = await asyncio.gather(
            *(gateway.http.get("/up/a", headers={"te": "trailers", "x-c": "d"}) for _ in range(65)),
            *(gateway.http.post("/up/a", content=b"x" * 1000) for _ in range(30)),
        )
        assert {(answer.status_code, answer.text, answer.headers["x-a"]) for answer in answers} == {
            (200, "ok", "b")
        }
        assert peer.connections == 2
        assert {head.get(b"te") for head in peer.heads} == {None}


@pytest.mark.parametrize("when", ["before the head", "after the head"])
async def test_client_that_leaves_resets_its_stream_at_once(tmp_path: Path, when: str) -> None:
    async def script(stream: Stream) -> None:
        if when == "after the head":
            await stream.headers(OK)
            await stream.data(b"begun")
        await stream.client_left()

    async with Http2Peer(script) as peer, serving(settings(tmp_path, peer)) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(b"GET /up/ HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: len(peer.heads) == 1, PATIENCE)
        if when == "after the head":
            await reader.readuntil(b"begun")
        writer.close()
        async with asyncio.timeout(PATIENCE):
            await peer.exchanges[0].gone.wait()
        assert peer.exchanges[0].reset_code == frames.CANCEL
        assert (await gateway.http.get("/api/ping")).status_code == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_only_what_is_safe_is_sent_again_when_the_upstream_breaks(tmp_path: Path, method: str) -> None:
    async def script(stream: Stream) -> None:
        if stream.number == 1:
            stream.line.abort()
        else:
            await stream.reply(b"ok")

    async with Http2Peer(script) as peer, serving(settings(tmp_path, peer)) as gateway:
        answer = await gateway.http.request(method, "/up/", content=b"x" if method == "POST" else None)
        assert (answer.status_code, len(peer.heads)) == ((200, 2) if method == "GET" else (502, 1))


async def test_goodbye_amid_many_calls_is_noticed_by_nobody(tmp_path: Path) -> None:
    """A POST included: the upstream said which calls it did not look at."""
    looked_at: list[bytes | None] = []

    async def script(stream: Stream) -> None:
        if stream.line is peer.lines[0] and stream.id > 19:
            return
        looked_at.append(stream.head.get(b"x-number"))
        if stream.line is peer.lines[0]:
            await until(lambda: len(peer.heads) >= 40, PATIENCE)
            if stream.id == 19:
                goodbye = (19).to_bytes(4, "big") + bytes(4)
                await stream.line.raw(frames.frame(frames.GOAWAY, 0, 0, goodbye))
        await stream.reply(await stream.body())

    async with Http2Peer(script) as peer, serving(settings(tmp_path, peer)) as gateway:
        answers = await asyncio.gather(
            *(
                gateway.http.post("/up/", content=b"%d" % number, headers={"x-number": str(number)})
                for number in range(40)
            )
        )
        assert [answer.text for answer in answers] == [str(number) for number in range(40)]
    assert len(looked_at) == len(set(looked_at)) == 40


async def test_download_that_breaks_breaks_for_the_client_too(tmp_path: Path) -> None:
    async def script(stream: Stream) -> None:
        await stream.headers([*OK, (b"content-length", b"10")])
        await stream.data(b"hello")
        stream.reset(2)

    async with Http2Peer(script) as peer, serving(settings(tmp_path, peer)) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(b"GET /up/ HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            received = await reader.read()
        writer.close()
        assert not received.startswith(b"HTTP/1.1 200") or received.endswith(b"\r\n\r\nhello")


async def test_large_bodies_pass_without_being_kept(tmp_path: Path) -> None:
    """96 MiB each way through a gateway in a process of its own."""
    size = 96

    async def script(stream: Stream) -> None:
        taken = 0
        while chunk := await stream.chunk():
            taken += len(chunk)
        taken_up.append(taken)
        await stream.headers([*OK, (b"content-length", b"%d" % (size * MEGABYTE))])
        for _ in range(size):
            await stream.data(bytes(MEGABYTE))

    async def content() -> AsyncIterator[bytes]:
        for _ in range(size):
            yield bytes(MEGABYTE)

    taken_up: list[int] = []
    async with Http2Peer(script) as peer:
        mounts = [mount("/up", peer.url, http_version="2", methods=["POST"], max_body_mb=1024)]
        database = f"sqlite:///{tmp_path / 'gateway.db'}"
        with spawned(tmp_path, GATEWAY_MOUNTS=json.dumps(mounts), DATABASE_URL=database) as gateway:
            before, taken = peak(gateway.process.pid), 0
            async with (
                httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=60) as http,
                http.stream("POST", "/up/", content=content()) as answer,
            ):
                async for chunk in answer.aiter_raw():
                    taken += len(chunk)
            grown = peak(gateway.process.pid) - before
    assert (taken_up, taken) == ([size * MEGABYTE], size * MEGABYTE)
    assert grown < 32 * MEGABYTE


def peak(pid: int) -> int:
    """The highest resident memory of a process so far, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024
