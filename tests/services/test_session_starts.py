"""How sessions begin: with one call however many ask, and with a note of what is not known."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from backend.errors import Conflict, GatewayError, NoFreePlace, UpstreamGarbage
from backend.models import AvatarSession
from backend.models.avatar_session import READY, STARTING, UNSURE
from backend.models.base import utc_now
from backend.services.database import Database
from backend.services.forwarding import Forwarder, Upstream
from backend.services.http_client import HttpClient
from backend.services.managed_fleet import ManagedFleet
from backend.services.sessions import Sessions
from tests.support.manager import Manager
from tests.support.peer import Peer, until
from tests.support.sessions import (
    PORTS,
    Clock,
    client,
    database,
    managed_by,
    met,
    nothing_left,
    port_of,
    rows,
)

__all__ = ["client", "database"]


async def held_back(
    manager: Manager, sessions: Sessions, avatar: str = "Ada"
) -> "asyncio.Task[dict[str, Any]]":
    """Begin a start whose call has reached the manager, and waits there."""
    manager.go.clear()
    before = len(manager.calls)
    start = asyncio.create_task(sessions.start(1, avatar))
    await until(lambda: len(manager.calls) == before + 1)
    return start


@pytest.mark.asyncio
async def test_start_remembers_where_the_avatar_runs(database: Database, client: HttpClient) -> None:
    async with managed_by(Manager(), database, client) as (sessions,):
        started = await sessions.start(1, "Ada")
        assert (started["port"], started["is_new_instance"]) == (8615, True)
        assert await port_of(sessions, 1) == 8615
        assert await port_of(sessions, 2) is None
        (row,) = await rows(database)
        assert (row.state, row.instance_id, row.holder) == (READY, "Ada_user_1", None)


@pytest.mark.asyncio
async def test_fifty_clicks_of_one_user_are_one_call_in_two_processes(
    database: Database, client: HttpClient
) -> None:
    manager = Manager(cold_seconds=0.3)
    async with managed_by(manager, database, client, processes=2) as gateways:
        clicks = [gateways[number % 2].start(1, "Ada") for number in range(50)]
        ports = {started["port"] for started in await asyncio.gather(*clicks)}
        assert ports == {8615}
        assert manager.changes == ["/avatar/start"]
        assert manager.connections == {"Ada": 1}
        assert len(await rows(database)) == 1
        await gateways[1].release(1)
        await nothing_left(database, manager)


@pytest.mark.asyncio
async def test_fifty_users_of_a_cold_avatar_start_it_once_and_count_each_for_itself(
    database: Database, client: HttpClient
) -> None:
    manager = Manager(cold_seconds=0.3)
    async with managed_by(manager, database, client, processes=2) as gateways:
        starts = [gateways[user % 2].start(user, "Ada") for user in range(1, 51)]
        started = await asyncio.gather(*starts)
        assert (manager.cold, manager.most_cold) == (1, 1)
        assert manager.connections == {"Ada": 50}
        assert sum(each["is_new_instance"] for each in started) == 1
        await asyncio.gather(*(gateways[user % 2].release(user) for user in range(1, 51)))
        await nothing_left(database, manager)
        assert manager.changes.count("/avatar/disconnect") == 50


@pytest.mark.asyncio
async def test_different_starts_at_the_same_time_leave_the_last_one_running(
    database: Database, client: HttpClient
) -> None:
    manager = Manager()
    async with managed_by(manager, database, client) as (sessions,):
        await asyncio.gather(*(sessions.start(1, name) for name in ("Ada", "Bo", "Cy")))
        await until(lambda: manager.connections == {"Cy": 1})


@pytest.mark.asyncio
async def test_switching_lets_go_of_the_former_avatar_once_the_new_one_stands(
    database: Database, client: HttpClient
) -> None:
    manager = Manager()
    async with managed_by(manager, database, client) as (sessions,):
        await sessions.start(1, "Ada")
        await sessions.start(2, "Ada")
        switching = await held_back(manager, sessions, "Bo")
        assert await port_of(sessions, 1) == 8615
        manager.go.set()
        assert (await switching)["port"] == 8616
        await until(lambda: manager.connections == {"Ada": 1, "Bo": 1})
        assert await port_of(sessions, 2) == 8615


@pytest.mark.asyncio
async def test_failed_switch_keeps_the_former_instance(database: Database, client: HttpClient) -> None:
    manager = Manager(capacity=1)
    async with managed_by(manager, database, client) as (sessions,):
        await sessions.start(1, "Ada")
        with pytest.raises(NoFreePlace) as full:
            await sessions.start(1, "Bo")
        assert full.value.position == 1
        assert manager.connections == {"Ada": 1}
        assert [row.avatar for row in await rows(database)] == ["Ada"]


@pytest.mark.asyncio
async def test_start_goes_on_without_the_one_who_asked(database: Database, client: HttpClient) -> None:
    manager = Manager()
    async with managed_by(manager, database, client) as (sessions,):
        leaver = await held_back(manager, sessions)
        leaver.cancel()
        await asyncio.wait([leaver])
        manager.go.set()
        assert (await sessions.start(1, "Ada"))["port"] == 8615
        assert manager.connections == {"Ada": 1}


@pytest.mark.asyncio
async def test_release_calls_a_start_off_also_from_another_process(
    database: Database, client: HttpClient
) -> None:
    manager = Manager()
    async with managed_by(manager, database, client, processes=2) as (one, other):
        start = await held_back(manager, one)
        async with asyncio.timeout(5):
            assert await other.release(1) is True
        manager.go.set()
        with pytest.raises(Conflict):
            await start
        await nothing_left(database, manager)


@pytest.mark.asyncio
async def test_whoever_starts_again_after_calling_off_gets_the_start_under_way(
    database: Database, client: HttpClient
) -> None:
    manager = Manager()
    async with managed_by(manager, database, client, processes=2) as (one, other):
        start = await held_back(manager, one)
        await other.release(1)
        again = asyncio.create_task(other.start(1, "Ada"))
        await met(lambda found: found[0].wanted, database)
        manager.go.set()
        await start
        assert (await again)["port"] == 8615
        assert manager.connections == {"Ada": 1}


@pytest.mark.asyncio
async def test_stop_amid_a_start_leaves_a_note_of_it(database: Database, client: HttpClient) -> None:
    manager = Manager()
    async with managed_by(manager, database, client) as (sessions,):
        start = await held_back(manager, sessions)
        await sessions.aclose()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert [row.state for row in await rows(database)] == [UNSURE]


@pytest.mark.asyncio
async def test_start_of_a_process_that_died_is_taken_over_when_its_lease_ends(
    database: Database, client: HttpClient
) -> None:
    manager, clock = Manager(), Clock()
    long_ago = utc_now() - timedelta(seconds=1)
    with database.transaction() as session:
        dead = AvatarSession(user_id=1, avatar="Ada", state=STARTING, holder="dead", due_at=long_ago)
        session.add(dead)
    async with managed_by(manager, database, client, now=clock) as (sessions,):
        assert (await sessions.start(1, "Ada"))["port"] == 8615
        assert [row.state for row in await rows(database)] == [UNSURE, READY]


@pytest.mark.asyncio
async def test_instance_that_moved_is_found_again(database: Database, client: HttpClient) -> None:
    manager = Manager()
    async with managed_by(manager, database, client) as (sessions,):
        await sessions.start(1, "Ada")
        manager.running["Ada"]["port"] = 8700
        assert (await sessions.start(1, "Ada"))["port"] == 8700
        assert await port_of(sessions, 1) == 8700


@pytest.mark.asyncio
async def test_while_the_manager_is_silent_a_user_keeps_what_is_known(
    database: Database, client: HttpClient
) -> None:
    manager = Manager()
    async with managed_by(manager, database, client) as (sessions,):
        await sessions.start(1, "Ada")
        manager.broken["/avatar/info/Ada_user_1"] = (b"500 Internal Server Error", b"<html>")
        again = await sessions.start(1, "Ada")
        assert (again["port"], again["is_new_instance"]) == (8615, False)
        assert manager.connections == {"Ada": 1}


def causes(error: BaseException) -> list[BaseException]:
    """What led to an error; a ring of causes would hold up whoever follows it."""
    found: list[BaseException] = []
    cause = error.__cause__ or error.__context__
    while cause is not None and cause not in found:
        found.append(cause)
        cause = cause.__cause__ or cause.__context__
    return found


LATE: dict[str, tuple[bytes, bytes]] = {
    "empty": (b"200 OK", b""),
    "no object": (b"200 OK", b"[1]"),
    "no data": (b"200 OK", b'{"status":"success"}'),
    "not JSON": (b"200 OK", b"<html>"),
    "failed": (b"500 Internal Server Error", b"{}"),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", LATE)
async def test_answer_that_tells_nothing_leaves_a_start_unsure(
    database: Database, client: HttpClient, kind: str
) -> None:
    manager = Manager(broken={"/avatar/start": LATE[kind]})
    async with managed_by(manager, database, client) as (sessions,):
        with pytest.raises(GatewayError) as failure:
            await sessions.start(1, "Ada")
        assert failure.value not in causes(failure.value)
        assert [(row.state, row.instance_id) for row in await rows(database)] == [(UNSURE, None)]
        assert await port_of(sessions, 1) is None
        manager.broken.clear()
        await sessions.start(1, "Ada")
        assert await port_of(sessions, 1) == 8615


REFUSED = {
    "crash": (b"400 Bad Request", "{'status':'error','message':'启动失败'}".replace("'", '"').encode()),
    "error": (b"200 OK", b'{"status":"error","message":"x"}'),
    "nothing": (b"404 Not Found", b"{}"),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", REFUSED)
async def test_refused_start_leaves_nothing(database: Database, client: HttpClient, kind: str) -> None:
    manager = Manager(broken={"/avatar/start": REFUSED[kind]})
    async with managed_by(manager, database, client) as (sessions,):
        with pytest.raises(GatewayError) as refused:
            await sessions.start(1, "Ada")
        assert refused.value.status in (404, 502, 503)
        assert await rows(database) == []


@pytest.mark.asyncio
async def test_start_that_reaches_nobody_leaves_nothing(database: Database, client: HttpClient) -> None:
    async with Peer(Manager()) as peer:
        gone = peer.url
    sessions = Sessions(ManagedFleet(Forwarder(client), Upstream.at("manager", gone), PORTS), database, PORTS)
    with pytest.raises(GatewayError):
        await sessions.start(1, "Ada")
    assert await rows(database) == []
    await sessions.aclose()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "elsewhere", [{"port": 22}, {"port": 8614}, {"port": 8715}, {"real_avatar_name": "Eve"}]
)
async def test_instance_where_none_may_be_is_let_go_of(
    database: Database, client: HttpClient, elsewhere: dict[str, Any]
) -> None:
    manager = Manager()
    new = manager._new
    manager._new = lambda *which: new(*which) | elsewhere  # type: ignore[method-assign]
    async with managed_by(manager, database, client) as (sessions,):
        with pytest.raises(UpstreamGarbage):
            await sessions.start(1, "Ada")
        assert await port_of(sessions, 1) is None
        await until(lambda: "/avatar/disconnect" in manager.calls)
        assert manager.asked[-1] == {"avatar_id": "Ada_user_1"}
        await met(lambda found: not found, database)
