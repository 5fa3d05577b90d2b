from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from backend.demo.faults import EVERY_FAULT, Switch
from backend.demo.world import World

from .sockets import ask, dial, hang_up, until

pytestmark = pytest.mark.asyncio


async def seen_with(world: World, fault: str, target: str = "/health") -> tuple[bytes, bytes, bool]:
    await world.control.put(Switch("catalogue", fault))
    seen = await ask(world.catalogue_url, target)
    return seen.head, seen.body, seen.reset


async def test_refuse_closes_the_port_until_it_is_cleared(world: World) -> None:
    await world.control.put(Switch("catalogue", "refuse"))
    with pytest.raises(ConnectionRefusedError):
        await ask(world.catalogue_url)
    await world.control.clear()
    assert (await ask(world.catalogue_url)).head.startswith(b"http/1.1 200")


async def test_refuse_ends_the_connections_that_are_open(world: World) -> None:
    reader, writer = await dial(world.catalogue_url)
    writer.write(b"GET /health HTTP/1.1\r\nHost: demo\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n")
    await world.control.put(Switch("catalogue", "refuse"))
    with pytest.raises(ConnectionResetError):
        await reader.read()
    await hang_up(writer)


async def test_refusing_instances_include_those_that_start_later(
    world: World, client: httpx.AsyncClient
) -> None:
    await world.control.put(Switch("instance", "refuse"))
    start = {"avatar_id": "Ada Demo_user_1", "avatar_name": "Ada Demo"}
    started = (await client.post(f"{world.manager_url}/avatar/start", json=start)).json()["data"]
    with pytest.raises(ConnectionRefusedError):
        await ask(started["webrtc_url"])
    await world.control.clear()
    assert (await ask(started["webrtc_url"])).head.startswith(b"http/1.1 200")


async def test_reset_sends_not_a_single_byte(world: World) -> None:
    assert await seen_with(world, "reset") == (b"", b"", True)


async def test_reset_after_head_sends_the_head_and_no_body(world: World) -> None:
    head, body, reset = await seen_with(world, "reset-after-head")
    assert head.startswith(b"http/1.1 200")
    assert b"content-length" in head
    assert (body, reset) == (b"", True)


async def test_hang_takes_the_request_and_never_answers(world: World) -> None:
    await world.control.put(Switch("catalogue", "hang"))
    reader, writer = await dial(world.catalogue_url)
    writer.write(b"GET /health HTTP/1.1\r\nHost: demo\r\n\r\n")
    await until(lambda: world.ledger("catalogue").open == 1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await reader.read(1)
    await hang_up(writer)
    await until(lambda: world.ledger("catalogue").open == 0)
    assert world.ledger("catalogue").aborted == 1


async def test_slow_body_is_right_but_comes_byte_by_byte(world: World) -> None:
    await world.control.put(Switch("catalogue", "slow-body"))
    reader, writer = await dial(world.catalogue_url)
    writer.write(b"GET /bytes/4 HTTP/1.1\r\nHost: demo\r\n\r\n")
    assert b"content-length: 4" in await reader.readuntil(b"\r\n\r\n")
    begun = asyncio.get_running_loop().time()
    assert await reader.readexactly(4) == b"\x00\x01\x02\x03"
    assert asyncio.get_running_loop().time() - begun >= 0.1
    await hang_up(writer)


async def test_cut_body_declares_more_than_it_sends(world: World) -> None:
    head, body, reset = await seen_with(world, "cut-body", "/bytes/1000")
    assert b"content-length: 1000" in head
    assert (len(body), reset) == (500, False)


async def test_cut_chunked_lacks_its_last_chunk(world: World) -> None:
    head, body, reset = await seen_with(world, "cut-chunked", "/bytes/1000")
    assert b"transfer-encoding: chunked" in head
    assert b"content-length" not in head
    assert body.count(b"fa\r\n") == 2
    assert not body.endswith(b"0\r\n\r\n")
    assert not reset


async def test_code_minus_one_comes_with_200(world: World) -> None:
    head, body, _ = await seen_with(world, "code-1")
    assert head.startswith(b"http/1.1 200")
    assert json.loads(body)["code"] == -1


async def test_status_error_comes_with_200(world: World) -> None:
    head, body, _ = await seen_with(world, "status-error")
    assert head.startswith(b"http/1.1 200")
    assert json.loads(body)["status"] == "error"


async def test_500_contains_what_must_not_leak(world: World) -> None:
    head, body, _ = await seen_with(world, "500")
    assert head.startswith(b"http/1.1 500")
    assert all(secret in body for secret in (b"Traceback", b"/srv/secret/path", b"http://10.1.2.3:8606"))


async def test_garbage_calls_itself_json(world: World) -> None:
    head, body, _ = await seen_with(world, "garbage")
    assert b"content-type: application/json" in head
    with pytest.raises(UnicodeDecodeError):
        body.decode()


async def test_not_http_has_no_status_line(world: World) -> None:
    head, _, reset = await seen_with(world, "not-http")
    assert head
    assert not head.startswith(b"http/")
    assert not reset


async def test_redirect_leads_to_a_port_nobody_has(world: World) -> None:
    head, _, _ = await seen_with(world, "redirect")
    assert head.startswith(b"http/1.1 302")
    assert b"location: http://127.0.0.1:1/" in head


async def test_huge_is_a_hundred_megabytes_of_json(world: World) -> None:
    await world.control.put(Switch("catalogue", "huge"))
    reader, writer = await dial(world.catalogue_url)
    writer.write(b"GET /health HTTP/1.1\r\nHost: demo\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"content-length: 104857600" in head
    assert len(await reader.readexactly(1_000_000)) == 1_000_000
    await hang_up(writer)
    await until(lambda: world.ledger("catalogue").open == 0)


async def test_wrong_length_has_two_that_differ(world: World) -> None:
    head, _, _ = await seen_with(world, "wrong-length")
    lengths = [line for line in head.split(b"\r\n") if line.startswith(b"content-length")]
    assert len(set(lengths)) == 2


@pytest.mark.parametrize(
    "fault", sorted(EVERY_FAULT.keys() - {"refuse", "reset", "hang", "huge", "slow-body"})
)
async def test_every_fault_survives_a_request_with_a_body(world: World, fault: str) -> None:
    await world.control.put(Switch("catalogue", fault))
    reader, writer = await dial(world.catalogue_url)
    writer.write(b"POST /sink HTTP/1.1\r\nHost: demo\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000)
    assert await reader.read(1)
    await hang_up(writer)
    await until(lambda: world.ledger("catalogue").open == 0)


async def test_fault_with_times_wears_off(world: World) -> None:
    await world.control.put(Switch("catalogue", "500", times=2))
    heads = [(await ask(world.catalogue_url)).head[:12] for _ in range(3)]
    assert heads == [b"http/1.1 500", b"http/1.1 500", b"http/1.1 200"]


async def test_fault_on_one_path_leaves_the_others(world: World) -> None:
    await world.control.put(Switch("catalogue", "500", path="/tts/models"))
    assert (await ask(world.catalogue_url, "/health")).head.startswith(b"http/1.1 200")
    assert (await ask(world.catalogue_url, "/tts/models?x=1")).head.startswith(b"http/1.1 500")


async def test_fault_of_one_service_leaves_the_others(world: World) -> None:
    await world.control.put(Switch("catalogue", "500"))
    assert (await ask(world.manager_url)).head.startswith(b"http/1.1 200")
