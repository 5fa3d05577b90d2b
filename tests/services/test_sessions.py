import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from backend.errors import Conflict, GatewayError, NoFreePlace, StoreUnavailable, UpstreamGarbage
from backend.models import AvatarSession
from backend.models.avatar_session import LEAVING, READY, STARTING, UNSURE
from backend.models.base import utc_now
from backend.services import session_store as store
from backend.services.database import Database
from backend.services.forwarding import Forwarder, Upstream
from backend.services.http_client import HttpClient
from backend.services.managed_fleet import ManagedFleet
from backend.services.seats import Place, Ports, Standing
from backend.services.session_store import Row
from backend.services.sessions import Sessions
from tests.support.manager import Manager
from tests.support.peer import Peer, until
from tests.support.stores import KINDS
from tests.support.stores import store as store_of
from tests.support.upstream import client_of

PORTS = Ports("127.0.0.1", 8615, 8714)


class Clock:
    """A time of day that tests set forward."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return utc_now() + self.ahead


@pytest_asyncio.fixture(params=KINDS)
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    async with store_of(request.param, tmp_path) as opened:
        yield opened


@pytest_asyncio.fixture
async def client() -> AsyncIterator[HttpClient]:
    async with client_of("direct") as opened:
        yield opened


@asynccontextmanager
async def managed_by(
    manager: Manager, database: Database, client: HttpClient, processes: int = 1, **more: Any
) -> AsyncIterator[list[Sessions]]:
    """As many gateways as asked for, with one manager and one database."""
    async with Peer(manager) as peer:
        upstream = Upstream.at("manager", peer.url)
        opened = []
        for _ in range(processes):
            fleet = ManagedFleet(Forwarder(client), upstream, PORTS)
            opened.append(Sessions(fleet, database, PORTS, **more))
        yield opened
        for sessions in opened:
            await sessions.aclose()


async def rows(database: Database) -> list[Row]:
    return await database.run(store.rows())


async def met(condition: Callable[[list[Row]], bool], database: Database) -> None:
    """Wait until the rows are as they should be."""
    async with asyncio.timeout(10):
        while not condition(await rows(database)):  # noqa: ASYNC110 - a database knows of no event
            await asyncio.sleep(0.01)


async def port_of(sessions: Sessions, user_id: int) -> int | None:
    seat = await sessions.seat_of(user_id)
    return None if seat is None else seat.port


async def nothing_left(database: Database, manager: Manager) -> None:
    await met(lambda found: not found, database)
    await until(lambda: not manager.connections)


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
        manager.go.clear()
        switching = asyncio.create_task(sessions.start(1, "Bo"))
        await until(lambda: len(manager.calls) == 3)
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
    manager.go.clear()
    async with managed_by(manager, database, client) as (sessions,):
        leaver = asyncio.create_task(sessions.start(1, "Ada"))
        await until(lambda: len(manager.calls) == 1)
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
    manager.go.clear()
    async with managed_by(manager, database, client, processes=2) as (one, other):
        start = asyncio.create_task(one.start(1, "Ada"))
        await until(lambda: len(manager.calls) == 1)
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
    manager.go.clear()
    async with managed_by(manager, database, client, processes=2) as (one, other):
        start = asyncio.create_task(one.start(1, "Ada"))
        await until(lambda: len(manager.calls) == 1)
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
    manager.go.clear()
    async with managed_by(manager, database, client) as (sessions,):
        start = asyncio.create_task(sessions.start(1, "Ada"))
        await until(lambda: len(manager.calls) == 1)
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


@pytest.mark.asyncio
async def test_release_lets_go_of_ones_own_connection_and_no_other(
    database: Database, client: HttpClient
) -> None:
    """The second user's instance bears the first one's id, and the manager ends it at zero."""
    manager = Manager()
    async with managed_by(manager, database, client) as (sessions,):
        await sessions.start(1, "Ada")
        await sessions.start(2, "Ada")
        assert await sessions.release(1) is True
        await until(lambda: manager.connections == {"Ada": 1})
        assert await sessions.release(1) is False
        assert await port_of(sessions, 2) == 8615
        await asyncio.sleep(0.05)
        assert manager.connections == {"Ada": 1}


@pytest.mark.asyncio
async def test_release_that_reaches_nobody_is_kept_for_later(database: Database, client: HttpClient) -> None:
    manager = Manager()
    async with managed_by(manager, database, client) as (sessions,):
        await sessions.start(1, "Ada")
        manager.broken["/avatar/disconnect"] = (b"503 Service Unavailable", b"")
        await sessions.release(1)
        await until(lambda: "/avatar/disconnect" in manager.calls)
        await met(lambda found: found[0].state != LEAVING, database)
        assert [row.state for row in await rows(database)] == [UNSURE]
        assert await port_of(sessions, 1) is None


@pytest.mark.asyncio
async def test_release_without_an_instance_asks_nobody(database: Database, client: HttpClient) -> None:
    manager = Manager()
    async with managed_by(manager, database, client) as (sessions,):
        assert await sessions.release(1) is False
        assert manager.calls == []


@pytest.mark.asyncio
async def test_line_is_kept_in_order_and_the_first_gets_the_place_that_becomes_free(
    database: Database, client: HttpClient
) -> None:
    manager = Manager(capacity=1)
    async with managed_by(manager, database, client, processes=2, most_waiting=2) as (one, other):
        await one.start(1, "Ada")
        positions = []
        for sessions, user in ((one, 2), (other, 3), (one, 2), (other, 4)):
            with pytest.raises(NoFreePlace) as full:
                await sessions.start(user, "Bo")
            positions.append(full.value.position)
        assert positions == [1, 2, 1, None]
        assert len(await rows(database)) == 1
        await one.release(1)
        await until(lambda: manager.connections == {})
        with pytest.raises(NoFreePlace) as full:
            await other.start(3, "Cy")
        assert full.value.position == 2
        assert (await one.start(2, "Bo"))["port"] == 8615


@pytest.mark.asyncio
async def test_whoever_asked_to_wait_gets_the_place_within_the_call(
    database: Database, client: HttpClient
) -> None:
    manager = Manager(capacity=1)
    async with managed_by(manager, database, client) as (sessions,):
        await sessions.start(1, "Ada")
        waiting = asyncio.create_task(sessions.start(2, "Bo", wait_seconds=20))
        await until(lambda: manager.changes.count("/avatar/start") == 2)
        await sessions.release(1)
        assert (await waiting)["port"] == 8615


@pytest.mark.asyncio
async def test_ticket_of_somebody_who_left_is_void_after_a_while(
    database: Database, client: HttpClient
) -> None:
    manager, clock = Manager(capacity=1), Clock()
    async with managed_by(manager, database, client, now=clock) as (sessions,):
        await sessions.start(1, "Ada")
        with pytest.raises(NoFreePlace):
            await sessions.start(2, "Bo")
        clock.ahead += timedelta(seconds=20)
        with pytest.raises(NoFreePlace) as full:
            await sessions.start(3, "Cy")
        assert full.value.position == 1


@pytest.mark.asyncio
async def test_peer_connection_of_a_seat_that_was_left_is_not_remembered(
    database: Database, client: HttpClient
) -> None:
    async with managed_by(Manager(), database, client) as (sessions,):
        await sessions.start(1, "Ada")
        former = await sessions.seat_of(1)
        assert former is not None
        await sessions.start(1, "Bo")
        assert await sessions.seated(former, 123456) is False
        seat = await sessions.seat_of(1)
        assert seat is not None
        assert seat.peer_session is None


class Busy:
    """A database that is too busy while it is told to be."""

    def __init__(self, database: Database) -> None:
        self.is_busy = False
        self.refusals = 0
        self._database = database

    async def run(self, work: Callable[[Any], Any]) -> Any:
        if self.is_busy:
            self.refusals += 1
            raise StoreUnavailable
        return await self._database.run(work)


@pytest.mark.asyncio
async def test_peer_connection_that_the_database_could_not_take_is_not_lost(
    database: Database, client: HttpClient
) -> None:
    """A writer that waits too long for SQLite's lock left users mute, and without a place after a minute."""
    busy: Any = Busy(database)
    async with managed_by(Manager(), busy, client, processes=2, keep_seconds=0) as (one, other):
        for number, newer in ((123456, None), (234567, 345678)):
            await one.start(1, "Ada")
            seat = await one.seat_of(1)
            assert seat is not None
            busy.is_busy = True
            with pytest.raises(StoreUnavailable):
                await one.seated(seat, number)
            with pytest.raises(StoreUnavailable):
                await one.notes.write_offers()
            busy.is_busy = False
            assert await peer_of(one) == number
            if newer is not None:
                await other.seated(seat, newer)
            await one.notes.write_offers()
            assert [await peer_of(each) for each in (one, other)] == [newer or number] * 2


@pytest.mark.asyncio
async def test_user_hears_of_a_peer_connection_once_the_database_has_it(
    database: Database, client: HttpClient
) -> None:
    """A worker that was killed after it had told the number, and before it had written it, took it along."""
    busy: Any = Busy(database)
    async with managed_by(Manager(), busy, client, processes=2) as (one, other):
        await one.start(1, "Ada")
        seat = await one.seat_of(1)
        assert seat is not None
        busy.is_busy = True
        keeping = asyncio.create_task(one.seated(seat, 123456))
        await until(lambda: busy.refusals > 1)
        assert not keeping.done()
        busy.is_busy = False
        assert await keeping
        assert await peer_of(other) == 123456


async def peer_of(sessions: Sessions) -> int | None:
    seat = await sessions.seat_of(1)
    return None if seat is None else seat.peer_session


class Fixed:
    """Two instances that take two users each, with nobody else to count."""

    counts = False
    dialect = ManagedFleet.dialect

    async def start(self, user_id: int, avatar: str) -> list[Standing]:
        return [Standing(Place(avatar, f"port-{port}", port), room=2) for port in (8615, 8616)]

    async def find(self, place: Place) -> Standing | None:
        return Standing(place, room=2)

    async def let_go(self, place: Place) -> None:
        return None

    async def standing(self) -> list[Standing]:
        return await self.start(0, "")


@pytest.mark.asyncio
async def test_places_are_counted_and_spread_however_many_come_at_once(database: Database) -> None:
    gateways = [Sessions(Fixed(), database, PORTS) for _ in range(2)]
    starts = [gateways[user % 2].start(user, "Ada") for user in range(1, 11)]
    told = await asyncio.gather(*starts, return_exceptions=True)
    assert sum(isinstance(each, NoFreePlace) for each in told) == 6
    assert await gateways[0].count() == {8615: 2, 8616: 2}
    waiting = sorted(each.position or 0 for each in told if isinstance(each, NoFreePlace))
    assert waiting[0] == 1
    for sessions in gateways:
        await sessions.aclose()


@pytest.mark.parametrize("port", [1, 22, 8614, 8715, 65536, -1])
def test_ports_outside_the_range_lead_nowhere(port: int) -> None:
    with pytest.raises(UpstreamGarbage):
        PORTS.upstream(port)


@pytest.mark.parametrize("port", [8615, 8700, 8714])
def test_ports_inside_the_range_lead_to_the_one_host(port: int) -> None:
    assert PORTS.upstream(port).origins == (f"http://127.0.0.1:{port}",)
