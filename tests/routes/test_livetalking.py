"""Fixed instances without a manager: the gateway counts who is where, and keeps the line."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backend.services.session_store import rows
from tests.support.frontend import Frontend, good, refused
from tests.support.gateway import Served, serving, settings_for
from tests.support.instance import OFFER
from tests.support.livetalking import LiveTalking
from tests.support.peer import Peer
from tests.support.ports import free_port


@dataclass
class Stage:
    served: Served
    servers: list[LiveTalking]
    peers: list[Peer]
    student: Frontend
    tutor: Frontend


@asynccontextmanager
async def stage(folder: Path, *servers: LiveTalking, **over: Any) -> AsyncIterator[Stage]:
    """A gateway in front of servers on neighbouring ports."""
    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(Peer(server)) for server in servers]
        first, last = min(peer.port for peer in peers), max(peer.port for peer in peers)
        assert last - first < 30_000
        settings = settings_for(
            folder, avatar_kind="livetalking", avatar_instance_ports=f"{first}-{last}", **over
        )
        served = await stack.enter_async_context(serving(settings))
        people = [Frontend(served.http, await served.token(role)) for role in ("student", "tutor")]
        yield Stage(served, list(servers), peers, *people)


async def start(person: Frontend, **more: str) -> Any:
    return await person.urlencoded("/api/avatar/start", avatar_name="Ada", **more)


@pytest.mark.asyncio
async def test_conversation_goes_through_without_a_manager(tmp_path: Path) -> None:
    async with stage(tmp_path, LiveTalking()) as on:
        started = good(await start(on.student))
        assert (started["port"], started["is_new_instance"]) == (on.peers[0].port, False)
        session = good(await on.student.json("/api/webrtc/offer", OFFER))["sessionid"]
        said = {"sessionid": session, "type": "echo", "text": "hello"}
        good(await on.student.json("/api/webrtc/human", said))
        assert on.servers[0].said == [said]
        upkeep = on.served.gateway.upkeep
        await upkeep.housekeeping.round()
        await upkeep.peer_watch.round()
        good(await on.student.json("/api/webrtc/human", said))
        refused(await on.student.json("/api/webrtc/human", said | {"sessionid": session + 1}), 404)


@pytest.mark.asyncio
async def test_session_that_has_ended_is_404_though_the_server_says_200(tmp_path: Path) -> None:
    async with stage(tmp_path, LiveTalking()) as on:
        good(await start(on.student))
        session = good(await on.student.json("/api/webrtc/offer", OFFER))["sessionid"]
        on.servers[0].sessions.clear()
        said = {"sessionid": session, "type": "echo", "text": "hello"}
        refused(await on.student.json("/api/webrtc/human", said), 404)


@pytest.mark.asyncio
async def test_second_user_stands_in_line_and_gets_the_place_of_the_first(tmp_path: Path) -> None:
    async with stage(tmp_path, LiveTalking()) as on:
        good(await start(on.student))
        answer = await start(on.tutor)
        shown = refused(answer, 503, "no_free_place")
        assert (shown["position"], shown["retryable"]) == (1, True)
        assert int(answer.headers["retry-after"]) > 0
        refused(await on.tutor.json("/api/webrtc/offer", OFFER), 409)
        good(await on.student.json("/api/avatar/disconnect"))
        assert good(await start(on.tutor))["port"] == on.peers[0].port


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["field", "header"])
async def test_whoever_asks_to_wait_gets_the_place_within_the_call(tmp_path: Path, how: str) -> None:
    async with stage(tmp_path, LiveTalking()) as on:
        good(await start(on.student))
        if how == "field":
            waiting = asyncio.create_task(start(on.tutor, wait="15"))
        else:
            headers = on.tutor.headers | {"Prefer": "respond-async, wait=15"}
            form = {"avatar_name": "Ada"}
            waiting = asyncio.create_task(on.tutor.http.post("/api/avatar/start", data=form, headers=headers))
        done, _ = await asyncio.wait([waiting], timeout=0.5)
        assert not done
        good(await on.student.json("/api/avatar/disconnect"))
        good(await waiting)


@pytest.mark.asyncio
async def test_wait_has_a_limit_and_a_form(tmp_path: Path) -> None:
    async with stage(tmp_path, LiveTalking(), gateway_avatar_wait_seconds=0.2) as on:
        good(await start(on.student))
        for wait in ("-1", "1.5", "x", "9" * 7, "٣"):
            refused(await start(on.tutor, wait=wait), 400)
        refused(await start(on.tutor, wait="999999"), 503, "no_free_place")


@pytest.mark.asyncio
async def test_users_are_spread_over_servers_and_each_takes_as_many_as_it_says(tmp_path: Path) -> None:
    health = {"status": "running", "max_sessions": 1}
    async with stage(tmp_path, LiveTalking(1, health=health)) as on:
        good(await start(on.student))
        refused(await start(on.tutor), 503, "no_free_place")
        on.servers[0].health = health | {"max_sessions": 2}
        await asyncio.sleep(1.1)  # what a server says is believed for a second
        good(await start(on.tutor))
        sessions = await on.served.gateway.database.run(rows())
        assert len(sessions) == 2


@pytest.mark.asyncio
async def test_server_that_ended_is_told_and_its_place_is_free(tmp_path: Path) -> None:
    async with stage(tmp_path, LiveTalking()) as on:
        good(await start(on.student))
        await on.peers[0].__aexit__()
        refused(await on.student.json("/api/webrtc/offer", OFFER), 503, "avatar_gone")
        refused(await on.student.json("/api/webrtc/offer", OFFER), 409)
        assert await on.served.gateway.database.run(rows()) == []


@pytest.mark.asyncio
async def test_without_any_server_a_start_is_503(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, avatar_kind="livetalking", avatar_instance_ports=f"{free_port()}")
    async with serving(settings) as served:
        student = Frontend(served.http, await served.token())
        refused(await start(student), 503, "upstream_busy")
        assert await served.gateway.database.run(rows()) == []
