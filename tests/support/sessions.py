"""The sessions of some gateways with one scripted manager, and a look into their table."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from backend.models.base import utc_now
from backend.services import session_store as store
from backend.services.database import Database
from backend.services.forwarding import Forwarder, Upstream
from backend.services.http_client import HttpClient
from backend.services.managed_fleet import ManagedFleet
from backend.services.seats import Ports
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
