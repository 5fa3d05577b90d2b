"""Where a manager may say that an instance lives, and how it may be called."""

import json
from collections.abc import Callable

import pytest

from backend.config import Settings
from tests.support.frontend import Frontend, refused
from tests.support.gateway import serving
from tests.support.instance import JSON, OFFER, started
from tests.support.peer import Exchange, Peer
from tests.support.ports import free_port

Answer = Callable[[int], object]
MANAGERS: dict[str, Answer] = {
    "other port": lambda port: {"avatar_id": "a", "port": port},
    "port 22": lambda _: {"avatar_id": "a", "port": 22},
    "port as text": lambda _: {"avatar_id": "a", "port": "8615"},
    "port as truth": lambda _: {"avatar_id": "a", "port": True},
    "no port": lambda _: {"avatar_id": "a"},
    "no id": lambda port: {"port": port},
    "id of another kind": lambda port: {"avatar_id": 5, "port": port},
    "no data": lambda _: None,
    "data of another kind": lambda _: [1],
}


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", MANAGERS)
async def test_place_where_no_instance_may_live_is_never_dialled(
    settings: Callable[..., Settings], kind: str
) -> None:
    async def never(exchange: Exchange) -> None:
        raise AssertionError("dialled")

    async with Peer(never) as elsewhere:

        async def manage(exchange: Exchange) -> None:
            await exchange.body()
            content = {"status": "success", "data": MANAGERS[kind](elsewhere.port)}
            await exchange.reply(json.dumps(content).encode(), JSON)

        port = free_port()
        assert port != elsewhere.port
        async with (
            Peer(manage) as manager,
            serving(settings(avatar_manager_url=manager.url, avatar_instance_ports=f"{port}")) as served,
        ):
            student = Frontend(served.http, await served.token())
            answer = await student.urlencoded("/api/avatar/start", avatar_name="Ada Demo")
            refused(answer, 502, "upstream_garbage")
            refused(await student.json("/api/webrtc/offer", OFFER), 409)
            assert elsewhere.connections == 0


ODD_IDS = ["a b", "a/../b", "a?b#c", "a%2fb", "数字人", "..", "a'b\"c", "x" * 160]


@pytest.mark.asyncio
@pytest.mark.parametrize("instance_id", ODD_IDS)
async def test_instance_id_of_any_spelling_is_asked_for_as_it_is(
    settings: Callable[..., Settings], instance_id: str
) -> None:
    info = {"avatar_id": instance_id, "real_avatar_name": "Ada Demo", "port": 8615, "running": True}

    async def manage(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.reply(json.dumps({"status": "success", "data": info}).encode(), JSON)

    async with Peer(manage) as manager, serving(settings(avatar_manager_url=manager.url)) as served:
        student = Frontend(served.http, await served.token())
        for _ in range(2):
            assert await started(student) == 8615
        targets = [head.target for head in manager.heads]
        assert targets[0] == b"/avatar/start"
        assert all(target.isascii() and b"#" not in target and b"?" not in target for target in targets)
        assert len(targets) == 2


@pytest.mark.asyncio
@pytest.mark.parametrize("instance_id", ["", "x" * 161, "a\nb", "a\x00b", "\ud800"])
async def test_instance_id_that_cannot_be_kept_is_502(
    settings: Callable[..., Settings], instance_id: str
) -> None:
    async def manage(exchange: Exchange) -> None:
        await exchange.body()
        content = {"status": "success", "data": {"avatar_id": instance_id, "port": 8615}}
        await exchange.reply(json.dumps(content).encode(), JSON)

    async with Peer(manage) as manager, serving(settings(avatar_manager_url=manager.url)) as served:
        student = Frontend(served.http, await served.token())
        answer = await student.urlencoded("/api/avatar/start", avatar_name="Ada Demo")
        refused(answer, 502, "upstream_garbage")
