"""What becomes of sessions that stand: their release, the line for their places, their peer connections."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from backend.errors import NoFreePlace, StoreUnavailable, UpstreamGarbage
from backend.models.avatar_session import LEAVING, UNSURE
from backend.services.database import Database
from backend.services.http_client import HttpClient
from backend.services.managed_fleet import ManagedFleet
from backend.services.seats import Place, Standing
from backend.services.sessions import Sessions
from tests.support.manager import Manager
from tests.support.peer import until
from tests.support.sessions import PORTS, Clock, client, database, managed_by, met, port_of, rows

__all__ = ["client", "database"]


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
