from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator

import httpx
import pytest

from backend.demo.settings import Settings
from backend.demo.world import World

from .sockets import dial, hang_up

pytestmark = pytest.mark.asyncio

GET = b"GET /health HTTP/1.1\r\nHost: demo\r\n\r\n"


async def test_connection_carries_one_request_after_another(world: World) -> None:
    reader, writer = await dial(world.catalogue_url)
    for _ in range(3):
        writer.write(GET)
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
    await hang_up(writer)


async def test_pipelined_requests_are_answered_in_order(world: World) -> None:
    reader, writer = await dial(world.catalogue_url)
    writer.write(GET + GET.replace(b"/health", b"/nowhere"))
    assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
    assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 404")
    await hang_up(writer)


async def test_client_that_waits_for_leave_to_send_gets_it(world: World) -> None:
    reader, writer = await dial(world.catalogue_url)
    writer.write(
        b"POST /sink HTTP/1.1\r\nHost: demo\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n",
    )
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
    writer.write(b"abc")
    assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
    await hang_up(writer)


async def test_body_nobody_asked_for_does_not_spoil_the_next_request(world: World) -> None:
    reader, writer = await dial(world.catalogue_url)
    writer.write(b"POST /nowhere HTTP/1.1\r\nHost: demo\r\nContent-Length: 500000\r\n\r\n" + b"x" * 500_000)
    writer.write(GET)
    assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 404")
    assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
    await hang_up(writer)


async def test_what_is_no_request_is_400_and_the_end(world: World) -> None:
    reader, writer = await dial(world.catalogue_url)
    writer.write(b"\x16\x03\x01 hello\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 400")
    await hang_up(writer)


async def test_overlong_json_is_refused(world: World, client: httpx.AsyncClient) -> None:
    answer = await client.post(f"{world.manager_url}/avatar/start", content=b" " * 2_000_000)
    assert answer.status_code == 400


async def test_large_upload_costs_no_memory_for_its_size(world: World, client: httpx.AsyncClient) -> None:
    piece = b"x" * 65536

    async def form() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nBig\r\n--b\r\n'
        yield b'Content-Disposition: form-data; name="prompt_face"; filename="big.mp4"\r\n\r\n'
        for _ in range(640):
            yield piece
        yield b"\r\n--b--\r\n"

    tracemalloc.start()
    try:
        answer = await client.post(
            f"{world.catalogue_url}/avatar/add",
            content=form(),
            headers={"content-type": "multipart/form-data; boundary=b"},
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.json()["status"] == "success"
    assert peak < 8_000_000
    (record,) = (await client.get(f"{world.control_url}/adds")).json()["adds"]
    assert record["files"]["prompt_face"]["size"] == 640 * 65536


async def test_world_closes_under_calls_that_are_open() -> None:
    async with World(Settings.free(latency_seconds=60.0)) as world:
        reader, writer = await dial(world.manager_url)
        body = b'{"avatar_id": "a", "avatar_name": "b"}'
        writer.write(
            b"POST /avatar/start HTTP/1.1\r\nHost: demo\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        await asyncio.sleep(0.05)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    await hang_up(writer)
    assert world.ledger("manager").open == 0
