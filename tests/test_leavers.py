"""Work stops when the client has gone: over both servers, both protocols, at every moment of a call."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.gateway import Spawned, mount, spawned
from tests.support.http2 import Http2
from tests.support.peer import Exchange, Peer, until
from tests.support.wire import calling

LEAVERS = 30
MOMENTS = ("silent", "events", "upload")
UPLOAD = b"POST /m/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + bytes(100_000)
# Enough for the gateway to begin the call: what it keeps of a small body is less.
BEGUN = bytes(16 * 1024)


async def held(exchange: Exchange) -> None:
    """An upstream that never ends a call by itself."""
    if exchange.head.target == b"/events":
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
    await exchange.client_left()


@contextlib.asynccontextmanager
async def gateway_over(server: str, tmp_path: Path) -> AsyncIterator[tuple[Peer, Spawned, int]]:
    async with Peer(held) as peer:
        mounts = json.dumps([mount("/m", peer.url, methods=["GET", "POST"])])
        with spawned(tmp_path, f"--server={server}", GATEWAY_MOUNTS=mounts) as gateway:
            yield peer, gateway, gateway.port


def told(gateway: Spawned) -> tuple[int, list[str]]:
    """How many departures the log tells of, and every alarm in it."""
    lines = gateway.log.read_text().splitlines()
    alarms = [line for line in lines if re.search(r"\b(WARNING|ERROR|CRITICAL)\b|Traceback", line)]
    return sum(" 499 " in line for line in lines), alarms


async def all_gone(peer: Peer, gateway: Spawned, departures: int) -> None:
    await until(lambda: peer.open == 0, 10)
    await until(lambda: told(gateway)[0] == departures, 10)
    assert told(gateway) == (departures, [])


@pytest.mark.parametrize("server", ["hypercorn", "granian"])
@pytest.mark.asyncio
async def test_no_call_upstream_outlives_its_client(tmp_path: Path, server: str) -> None:
    requests = {name: b"GET /m/" + name.encode() + b" HTTP/1.1\r\nHost: x\r\n\r\n" for name in MOMENTS}
    requests["upload"] = UPLOAD
    async with gateway_over(server, tmp_path) as (peer, gateway, port):
        for turn, moment in enumerate(MOMENTS, 1):
            async with contextlib.AsyncExitStack() as stack:
                callers = [await stack.enter_async_context(calling(port)) for _ in range(LEAVERS)]
                await asyncio.gather(*(caller.say(requests[moment]) for caller in callers))
                await until(lambda: peer.open == LEAVERS, 10)
                for caller in callers[::2]:
                    caller.reset()
            await all_gone(peer, gateway, turn * LEAVERS)


@pytest.mark.parametrize("server", ["hypercorn", "granian"])
@pytest.mark.parametrize("leaves", ["by closing", "by resetting its streams"])
@pytest.mark.asyncio
async def test_no_call_upstream_outlives_its_http2_client(tmp_path: Path, server: str, leaves: str) -> None:
    async with gateway_over(server, tmp_path) as (peer, gateway, port):
        for turn, moment in enumerate(MOMENTS, 1):
            async with contextlib.AsyncExitStack() as stack:
                callers = [await stack.enter_async_context(Http2(port)) for _ in range(LEAVERS // 2)]
                opened = [(caller, await begun(caller, moment)) for caller in callers for _ in range(2)]
                await until(lambda: peer.open == LEAVERS, 10)
                if leaves == "by resetting its streams":
                    for caller, stream in opened:
                        await caller.reset(stream)
                    await all_gone(peer, gateway, turn * LEAVERS)
            await all_gone(peer, gateway, turn * LEAVERS)


async def begun(caller: Http2, moment: str) -> int:
    if moment == "upload":
        return await caller.post("/m/upload", ("content-length", "1000000"), body=BEGUN, ended=False)
    return await caller.get(f"/m/{moment}")


CHUNKED = (
    b"POST /m/upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4000\r\n" + BEGUN + b"\r\n"
)


@pytest.mark.parametrize("server", ["hypercorn", "granian"])
@pytest.mark.asyncio
async def test_an_upload_that_is_cut_off_never_looks_whole(tmp_path: Path, server: str) -> None:
    """Granian 2.8 tells of a reset HTTP/2 upload as of one that has ended."""
    arrived: list[bytes] = []

    async def script(exchange: Exchange) -> None:
        got = b""
        while chunk := await exchange.reader.read(65536):
            got += chunk
            if got.endswith(b"\r\n0\r\n\r\n"):
                break
        arrived.append(got)
        exchange.writer.close()

    async with Peer(script) as peer:
        mounts = json.dumps([mount("/m", peer.url, methods=["POST"])])
        with spawned(tmp_path, f"--server={server}", GATEWAY_MOUNTS=mounts) as gateway:
            port = gateway.port
            for number in range(0, 10, 2):
                async with calling(port) as caller:
                    await caller.say(CHUNKED)
                    await until(lambda: len(peer.heads) > number, 10)  # noqa: B023 - at once
                await until(lambda: peer.open == 0, 10)
                async with Http2(port) as http:
                    stream = await http.post("/m/upload", body=BEGUN, ended=False)
                    await until(lambda: len(peer.heads) > number + 1, 10)  # noqa: B023 - at once
                    await http.reset(stream)
                    await until(lambda: peer.open == 0, 10)
    assert len(arrived) == 10
    assert [got for got in arrived if got.endswith(b"\r\n0\r\n\r\n")] == []
