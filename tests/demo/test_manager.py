from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest

from backend.demo.settings import InstancePorts, Settings
from backend.demo.world import World

from .conftest import LATENCY_SECONDS
from .sockets import ask, dial, hang_up, until

pytestmark = pytest.mark.asyncio


async def start(world: World, client: httpx.AsyncClient, name: str, user: int = 1) -> httpx.Response:
    fields = {"avatar_id": f"{name}_user_{user}", "avatar_name": name}
    return await client.post(f"{world.manager_url}/avatar/start", json=fields)


async def post(world: World, client: httpx.AsyncClient, verb: str, **fields: object) -> httpx.Response:
    return await client.post(f"{world.manager_url}/avatar/{verb}", json=fields)


async def listed(world: World, client: httpx.AsyncClient) -> list[dict[str, Any]]:
    answer = (await client.get(f"{world.manager_url}/avatar/list")).json()
    assert answer["count"] == len(answer["data"])
    instances: list[dict[str, Any]] = answer["data"]
    return instances


async def test_cold_start_takes_the_latency_and_opens_a_port(world: World, client: httpx.AsyncClient) -> None:
    begun = time.monotonic()
    answer = (await start(world, client, "Ada Demo")).json()
    assert time.monotonic() - begun >= LATENCY_SECONDS
    assert answer["status"] == "success"
    assert answer["data"].keys() == {
        "avatar_id",
        "real_avatar_name",
        "port",
        "gpu",
        "pid",
        "running",
        "start_time",
        "uptime_seconds",
        "webrtc_url",
        "connections",
    }
    assert (await client.get(f"http://127.0.0.1:{answer['data']['port']}/health")).status_code == 200


async def test_second_user_gets_the_first_users_instance_at_once(
    world: World, client: httpx.AsyncClient
) -> None:
    first = (await start(world, client, "Ada Demo", user=1)).json()["data"]
    world.latency.seconds = 60.0
    second = (await start(world, client, "Ada Demo", user=2)).json()["data"]
    assert (second["avatar_id"], second["port"]) == (first["avatar_id"], first["port"])
    assert second["connections"] == 2


async def test_starts_of_different_names_go_one_after_another(
    world: World, client: httpx.AsyncClient
) -> None:
    begun = time.monotonic()
    await asyncio.gather(*(start(world, client, name) for name in ("Ada Demo", "Mei Lin", "Leo Park")))
    assert time.monotonic() - begun >= 3 * LATENCY_SECONDS
    assert len({instance["port"] for instance in await listed(world, client)}) == 3


async def test_start_beyond_the_capacity_is_400(world: World, client: httpx.AsyncClient) -> None:
    for name in ("Ada Demo", "Mei Lin", "Leo Park"):
        await start(world, client, name)
    answer = await start(world, client, "Prof Chen")
    assert (answer.status_code, answer.json()["status"]) == (400, "error")


async def test_start_without_a_free_port_is_400(client: httpx.AsyncClient, world: World) -> None:
    taken = (await start(world, client, "Ada Demo")).json()["data"]["port"]
    crowded = Settings(
        catalogue_port=0,
        manager_port=0,
        control_port=0,
        instance_ports=InstancePorts(taken, taken),
        latency_seconds=0,
    )
    async with World(crowded) as other:
        answer = await start(other, client, "Ada Demo")
    assert (answer.status_code, answer.json()["status"]) == (400, "error")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"avatar_id": "x"}', b'{"avatar_id": 1, "avatar_name": 2}']
)
async def test_start_needs_both_names(world: World, client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.post(f"{world.manager_url}/avatar/start", content=body)
    assert (answer.status_code, answer.json()["status"]) == (400, "error")


async def test_start_goes_on_when_its_caller_leaves(world: World, client: httpx.AsyncClient) -> None:
    _, writer = await dial(world.manager_url)
    body = b'{"avatar_id": "Ada Demo_user_1", "avatar_name": "Ada Demo"}'
    writer.write(
        b"POST /avatar/start HTTP/1.1\r\nHost: demo\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    await until(lambda: world.ledger("manager").open == 1)
    await hang_up(writer)
    await until(lambda: world.ledger("manager").open == 0)
    assert world.ledger("manager").aborted == 1
    assert (await start(world, client, "Ada Demo", user=2)).json()["data"]["connections"] == 2


async def test_last_disconnect_stops_the_instance(world: World, client: httpx.AsyncClient) -> None:
    port = (await start(world, client, "Ada Demo")).json()["data"]["port"]
    await start(world, client, "Ada Demo", user=2)
    assert (await post(world, client, "disconnect", avatar_name="Ada Demo")).status_code == 200
    assert (await listed(world, client))[0]["connections"] == 1
    assert (await post(world, client, "disconnect", avatar_id="Ada Demo_user_1")).status_code == 200
    assert await listed(world, client) == []
    with pytest.raises(ConnectionRefusedError):
        await ask(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("verb", ["disconnect", "stop", "restart"])
async def test_unknown_instance_is_400(world: World, client: httpx.AsyncClient, verb: str) -> None:
    answer = await post(world, client, verb, avatar_id="nobody")
    assert (answer.status_code, answer.json()["status"]) == (400, "error")


async def test_stop_closes_the_instance_whoever_is_connected(world: World, client: httpx.AsyncClient) -> None:
    await start(world, client, "Ada Demo")
    await start(world, client, "Ada Demo", user=2)
    assert (await post(world, client, "stop", avatar_id="Ada Demo_user_1")).status_code == 200
    assert await listed(world, client) == []


async def test_restart_forgets_the_sessions(world: World, client: httpx.AsyncClient) -> None:
    port = (await start(world, client, "Ada Demo")).json()["data"]["port"]
    offer = {"sdp": "v=0", "type": "offer"}
    session = (await client.post(f"http://127.0.0.1:{port}/offer", json=offer)).json()["sessionid"]
    restarted = (await post(world, client, "restart", avatar_id="Ada Demo_user_1")).json()["data"]
    speaking = f"http://127.0.0.1:{restarted['port']}/is_speaking"
    assert (await client.post(speaking, json={"sessionid": session})).status_code == 404


async def test_stop_all_leaves_nothing(world: World, client: httpx.AsyncClient) -> None:
    await start(world, client, "Ada Demo")
    await start(world, client, "Mei Lin")
    assert (await post(world, client, "stop-all")).status_code == 200
    assert await listed(world, client) == []


async def test_info_takes_a_name_with_spaces(world: World, client: httpx.AsyncClient) -> None:
    await start(world, client, "Ada Demo")
    found = await client.get(f"{world.manager_url}/avatar/info/Ada%20Demo_user_1")
    assert found.json()["data"]["real_avatar_name"] == "Ada Demo"
    assert (await client.get(f"{world.manager_url}/avatar/info/nobody")).status_code == 404


async def test_status_sums_up_the_pool(world: World, client: httpx.AsyncClient) -> None:
    await start(world, client, "Ada Demo")
    await start(world, client, "Ada Demo", user=2)
    pool = (await client.get(f"{world.manager_url}/status")).json()["data"]["manager"]
    assert (pool["running"], pool["max"], pool["available"]) == (1, 3, 2)
    assert pool["total_connections"] == 2
    assert pool["avatar_map"] == {"Ada Demo": "Ada Demo_user_1"}


async def test_health_names_the_service(world: World, client: httpx.AsyncClient) -> None:
    answer = (await client.get(f"{world.manager_url}/health")).json()
    assert answer.keys() == {"status", "service", "version"}
