"""Leases: work that one process at a time does for all, and that another one takes over when it dies.

They end by the time of day, which differs between machines: who holds one renews it well before its end.
"""

import asyncio
import contextlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, or_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from backend.errors import GatewayError
from backend.models.base import utc_now
from backend.models.lease import Lease
from backend.services.database import Database

# Clocks that differ by some seconds, and a database that is slow for a moment, take a lease from nobody.
LEASE_SECONDS = 12.0
RENEW_SECONDS = 3.0
GIVE_BACK_SECONDS = 1.0


class Leases:
    """The leases of one process, all under one name of it."""

    def __init__(self, database: Database, holder: str, *, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._now = now
        self.holder = holder

    async def take(self, name: str, seconds: float = LEASE_SECONDS) -> bool:
        """Take or renew a lease; False when it is in other hands. Raises StoreUnavailable."""
        now = self._now()
        until = now + timedelta(seconds=seconds)
        return await self._database.run(lambda session: _taken(session, name, self.holder, now, until))

    async def give_back(self, name: str) -> None:
        """End a lease before its time; without a database it ends by itself."""
        mine = delete(Lease).where(Lease.name == name, Lease.holder == self.holder)
        with contextlib.suppress(GatewayError, TimeoutError):
            async with asyncio.timeout(GIVE_BACK_SECONDS):
                await self._database.run(lambda session: session.execute(mine).close())

    def __repr__(self) -> str:
        return f"<Leases of {self.holder}>"


def _taken(session: Session, name: str, holder: str, now: datetime, until: datetime) -> bool:
    insert: Any = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    statement = insert(Lease).values(name=name, holder=holder, until=until)
    taking = statement.on_conflict_do_update(
        index_elements=[Lease.name],
        set_={"holder": holder, "until": until},
        where=or_(Lease.holder == holder, Lease.until < now),
    )
    return session.execute(taking.returning(Lease.name)).scalar_one_or_none() is not None
