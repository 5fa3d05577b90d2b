from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from backend.demo.world import World

from .sockets import dial, hang_up

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("size", [0, 1, 65_536, 1_000_003])
async def test_bytes_are_as_many_as_asked_and_always_the_same(
    world: World, client: httpx.AsyncClient, size: int
) -> None:
    answer = await client.get(f"{world.catalogue_url}/bytes/{size}")
    assert answer.headers["content-length"] == str(size)
    assert answer.content == (bytes(range(256)) * (size // 256 + 1))[:size]


async def test_sink_measures_a_chunked_body(world: World, client: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield b"x" * 10_000

    answer = await client.post(f"{world.catalogue_url}/sink", content=chunks())
    assert answer.json() == {"bytes": 2_000_000, "sha256": hashlib.sha256(b"x" * 2_000_000).hexdigest()}


async def test_echo_tells_the_target_and_headers_as_they_came(world: World) -> None:
    reader, writer = await dial(world.catalogue_url)
    writer.write(
        b"POST /echo?a=%2f&a=1 HTTP/1.1\r\nHost: demo\r\nX-Two: 1\r\nx-two: 2\r\nContent-Length: 3\r\n\r\nabc"
    )
    seen = await reader.read(65536)
    await hang_up(writer)
    echo = httpx.Response(200, content=seen.partition(b"\r\n\r\n")[2]).json()
    assert (echo["method"], echo["target"], echo["body_bytes"]) == ("POST", "/echo?a=%2f&a=1", 3)
    assert echo["headers"] == [["Host", "demo"], ["X-Two", "1"], ["x-two", "2"], ["Content-Length", "3"]]
    assert echo["peer"].startswith("127.0.0.1:")


async def test_every_visit_gets_another_cookie(world: World, client: httpx.AsyncClient) -> None:
    url = f"{world.catalogue_url}/cookie"
    cookies = {(await client.get(url)).headers["set-cookie"] for _ in range(2)}
    assert len(cookies) == 2
    assert all(cookie.startswith("visitor=") for cookie in cookies)


async def test_stream_sends_each_event_when_it_happens(instance_url: str, client: httpx.AsyncClient) -> None:
    arrivals = []
    async with client.stream("GET", f"{instance_url}/stream?events=3&interval=0.1") as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        async for chunk in answer.aiter_raw():
            assert chunk.endswith(b"\n\n")
            arrivals.append(time.monotonic())
    assert len(arrivals) == 3
    assert arrivals[-1] - arrivals[0] >= 0.15


@pytest.mark.parametrize("target", ["/bytes/many", "/stream?events=x"])
async def test_a_probe_refuses_what_is_no_number(
    world: World, client: httpx.AsyncClient, target: str
) -> None:
    assert (await client.get(f"{world.catalogue_url}{target}")).status_code == 422


async def test_instances_have_the_probes_too(instance_url: str, client: httpx.AsyncClient) -> None:
    assert (await client.get(f"{instance_url}/bytes/10")).content == bytes(range(10))
    assert (await client.post(f"{instance_url}/sink", content=b"abc")).json()["bytes"] == 3
    assert (await client.get(f"{instance_url}/echo")).json()["method"] == "GET"
