"""A gateway's sessions and who keeps house among them, with a clock that can be set."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import pytest
import pytest_asyncio
from sqlalchemy.orm import Session

from backend.errors import GatewayError
from backend.models import LoginSession, User
from backend.models.base import utc_now
from backend.services.database import Database
from backend.services.housekeeping import Housekeeping, Patience
from backend.services.http_client import HttpClient
from backend.services.sessions import Sessions
from tests.support.manager import Manager
from tests.support.sessions import Clock, managed_by, rows


@dataclass
class House:
    """One gateway's sessions and their keeper."""

    sessions: Sessions
    keeper: Housekeeping
    clock: Clock
    database: Database
    manager: Manager

    async def lose_start(self) -> None:
        """Let the first user's start be done, and its answer be lost."""
        self.manager.deaf = {"/avatar/start"}
        with pytest.raises(GatewayError):
            await self.sessions.start(1, "Ada")
        self.manager.deaf.clear()

    async def later(self, seconds: float) -> None:
        """Let the time pass, and do a round."""
        self.clock.ahead += timedelta(seconds=seconds)
        await self.keeper.round()

    async def states(self) -> list[str]:
        return [row.state for row in await rows(self.database)]


@asynccontextmanager
async def house(
    manager: Manager, database: Database, client: HttpClient, users: int = 3
) -> AsyncIterator[House]:
    """A gateway whose users are all signed in."""
    clock = Clock()
    await database.run(lambda session: _sign_in(session, users))
    async with managed_by(manager, database, client, now=clock) as (sessions,):
        yield House(sessions, Housekeeping(sessions, Patience(60, 1800)), clock, database, manager)


@pytest_asyncio.fixture
async def kept(database: Database, client: HttpClient) -> AsyncIterator[House]:
    async with house(Manager(), database, client) as opened:
        yield opened


def _sign_in(session: Session, users: int) -> None:
    now = utc_now()
    for number in range(1, users + 1):
        session.add(User(id=number, email=f"{number}@b.co", password_hash="x", role="student"))
        session.flush()
        until_when = now + timedelta(hours=5)
        session.add(
            LoginSession(user_id=number, jti="0" * 32, started_at=now, expires_at=until_when, changed_at=1)
        )


async def seat(sessions: Sessions, user_id: int, number: int) -> None:
    found = await sessions.seat_of(user_id)
    assert found is not None
    assert await sessions.seated(found, number)


async def answering(kept: House) -> None:
    """Wait until calls reach the manager again."""
    async with asyncio.timeout(20):
        while True:
            with suppress(GatewayError):
                await kept.sessions.fleet.standing()
                return
            await asyncio.sleep(0.1)
