from __future__ import annotations

import asyncio
import time

import httpx
import pytest

from backend.demo.world import World

from .sockets import PREVIEW, dial, hang_up, open_calls, until

pytestmark = pytest.mark.asyncio


async def test_put_fault_is_listed_until_deleted(world: World, client: httpx.AsyncClient) -> None:
    url = f"{world.control_url}/faults"
    switch = {"service": "manager", "path": "/avatar/start", "fault": "hang", "times": 3}
    assert (await client.put(url, json=switch)).json() == {"faults": [switch]}
    assert (await client.get(url)).json() == {"faults": [switch]}
    assert (await client.delete(url)).json() == {"faults": []}


async def test_second_fault_on_the_same_path_replaces_the_first(
    world: World, client: httpx.AsyncClient
) -> None:
    url = f"{world.control_url}/faults"
    await client.put(url, json={"service": "catalogue", "fault": "hang"})
    answer = (await client.put(url, json={"service": "catalogue", "fault": "500"})).json()
    assert [switch["fault"] for switch in answer["faults"]] == ["500"]


@pytest.mark.parametrize(
    "switch",
    [
        {"service": "nobody", "fault": "hang"},
        {"service": "catalogue", "fault": "no such fault"},
        {"service": "catalogue"},
        {"service": "catalogue", "fault": "hang", "times": 0},
        {"service": "catalogue", "fault": "hang", "path": 1},
        {"service": "catalogue", "fault": "hang", "extra": 1},
        {"service": "catalogue", "fault": "refuse", "times": 1},
        ["not an object"],
    ],
)
async def test_switch_without_meaning_is_refused(
    world: World, client: httpx.AsyncClient, switch: object
) -> None:
    answer = await client.put(f"{world.control_url}/faults", json=switch)
    assert answer.status_code == 400
    assert (await client.get(f"{world.control_url}/faults")).json() == {"faults": []}


async def test_latency_can_be_changed_while_the_world_runs(world: World, client: httpx.AsyncClient) -> None:
    url = f"{world.control_url}/latency"
    assert (await client.put(url, json={"seconds": 0.2})).json() == {"seconds": 0.2}
    begun = time.monotonic()
    await client.post(f"{world.catalogue_url}/avatar/preview", data={"avatar_name": "Ada Demo"})
    assert time.monotonic() - begun >= 0.2


@pytest.mark.parametrize(
    "body", [b"{}", b"x", b'{"seconds": -1}', b'{"seconds": "long"}', b'{"seconds": NaN}']
)
async def test_latency_is_a_number_of_seconds(world: World, client: httpx.AsyncClient, body: bytes) -> None:
    assert (await client.put(f"{world.control_url}/latency", content=body)).status_code == 400


async def test_counters_tell_calls_by_service_and_path(
    world: World, instance_url: str, client: httpx.AsyncClient
) -> None:
    await client.get(f"{world.catalogue_url}/health?x=1")
    await client.get(f"{instance_url}/health")
    counters = (await client.get(f"{world.control_url}/counters")).json()
    assert counters.keys() == {"catalogue", "manager", "instance", "model", "retrieval"}
    assert counters["catalogue"] == {"calls": 1, "open": 0, "aborted": 0, "by_path": {"/health": 1}}
    assert counters["manager"]["by_path"] == {"/avatar/start": 1}
    assert counters["instance"]["calls"] == 1


async def test_call_is_open_while_it_waits_and_aborted_when_its_client_leaves(
    world: World, client: httpx.AsyncClient
) -> None:
    world.latency.seconds = 60.0
    _, writer = await dial(world.catalogue_url)
    writer.write(PREVIEW)
    await until(lambda: world.ledger("catalogue").open == 1)
    await hang_up(writer)
    await until(lambda: world.ledger("catalogue").open == 0, seconds=0.2)
    counters = (await client.get(f"{world.control_url}/counters")).json()
    assert counters["catalogue"]["aborted"] == 1


@pytest.mark.parametrize("target", ["/stream?events=1000&interval=0.01", "/bytes/1000000000"])
async def test_stream_stops_when_its_client_leaves(world: World, target: str) -> None:
    reader, writer = await dial(world.catalogue_url)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: demo\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    await hang_up(writer)
    await until(lambda: world.ledger("catalogue").open == 0)
    assert world.ledger("catalogue").aborted == 1


async def test_client_that_leaves_in_the_middle_of_an_upload_is_counted(world: World) -> None:
    _, writer = await dial(world.catalogue_url)
    writer.write(b"POST /sink HTTP/1.1\r\nHost: demo\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 300_000)
    await until(lambda: world.ledger("catalogue").open == 1)
    await hang_up(writer)
    await until(lambda: world.ledger("catalogue").open == 0)
    assert world.ledger("catalogue").aborted == 1


async def test_client_that_leaves_after_the_answer_is_not_aborted(
    world: World, client: httpx.AsyncClient
) -> None:
    reader, writer = await dial(world.catalogue_url)
    writer.write(b"GET /bytes/1000000 HTTP/1.1\r\nHost: demo\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(1_000_000)
    await hang_up(writer)
    assert (await client.get(f"{world.catalogue_url}/health")).status_code == 200
    assert world.ledger("catalogue").aborted == 0


async def test_no_call_is_open_within_a_second_of_a_thousand_clients_leaving(world: World) -> None:
    world.latency.seconds = 60.0
    writers = [
        writer for _, writer in await asyncio.gather(*(dial(world.catalogue_url) for _ in range(1000)))
    ]
    for writer in writers:
        writer.write(PREVIEW)
    await until(lambda: world.ledger("catalogue").open == 1000, seconds=5.0)
    await asyncio.gather(*(hang_up(writer) for writer in writers))
    await until(lambda: open_calls(world) == 0, seconds=1.0)
    assert world.ledger("catalogue").aborted == 1000


async def test_pages_can_be_closed_one_by_one_and_all_together(
    world: World, client: httpx.AsyncClient
) -> None:
    start = {"avatar_id": "x_user_1", "avatar_name": "Ada Demo"}
    port = (await client.post(f"{world.manager_url}/avatar/start", json=start)).json()["data"]["port"]
    instance = f"http://127.0.0.1:{port}"
    offer = {"sdp": "v=0", "type": "offer"}
    sessions = [(await client.post(f"{instance}/offer", json=offer)).json()["sessionid"] for _ in range(3)]
    gone = await client.delete(f"{world.control_url}/sessions/{sessions[0]}")
    assert gone.json() == {"gone": 1}
    looks = [await client.post(f"{instance}/is_speaking", json={"sessionid": each}) for each in sessions]
    assert [look.status_code for look in looks] == [404, 200, 200]
    assert (await client.delete(f"{world.control_url}/sessions")).json() == {"gone": 2}
    assert (await client.get(f"{instance}/health")).json()["sessions"] == 0
    assert (await client.delete(f"{world.control_url}/sessions/x")).status_code == 400
