"""Connections on their way out: the manager is told of each, once for certain."""

import logging
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from backend.errors import GatewayError
from backend.models.avatar_session import LEAVING
from backend.models.base import utc_now
from backend.services import session_store as store
from backend.services.database import Database
from backend.services.errands import Errands
from backend.services.fleet import Fleet, Unsure
from backend.services.session_store import SETTLED_AFTER, Row

log = logging.getLogger("gateway.sessions")

# Beyond the limits of the call to the manager and of two transactions.
HOLD = timedelta(seconds=60)
MOST_AT_ONCE = 1_000


class Departures:
    """Lets go of instances beside whoever asked for it; what cannot be done now is left in the table."""

    def __init__(
        self, fleet: Fleet, database: Database, holder: str, *, now: Callable[[], datetime] = utc_now
    ) -> None:
        self._fleet = fleet
        self._database = database
        self._holder = holder
        self._now = now
        self._errands = Errands(MOST_AT_ONCE)

    def begin(self, rows: Iterable[Row]) -> None:
        """Begin to let go of those rows that are on their way out."""
        for row in rows:
            if row.state == LEAVING and row.holder is None:
                self._errands.start(self.let_go(row))

    async def let_go(self, row: Row) -> None:
        """Tell the manager that a connection has ended, once for all. Raises StoreUnavailable."""
        now = self._now()
        taken = await self._database.run(store.take_out(row.id, self._holder, now + HOLD))
        if taken is None:
            return
        try:
            if taken.counted and taken.place is not None:
                await self._fleet.let_go(taken.place)
        except Unsure as unsure:
            log.warning("nobody knows whether an instance was released: %s", unsure.error.code)
            due_at = self._now() + SETTLED_AFTER
            await self._database.run(store.lose(row.id, due_at, LEAVING))
        except GatewayError as error:
            log.warning("an instance is released later: %s", error.code)
            await self._database.run(store.put_back(row.id, self._holder))
        else:
            await self._database.run(store.drop(row.id, LEAVING))

    async def aclose(self) -> None:
        await self._errands.aclose()

    def __repr__(self) -> str:
        return f"<Departures {self._errands!r}>"
