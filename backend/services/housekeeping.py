"""The keeper of avatar sessions: one process at a time compares them with what stands, and clears up.

It sees to what processes left that died, to instances that ended or moved, to users who are signed out or
away, and keeps busy instances from being taken for idle.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from backend.errors import GatewayError
from backend.models.avatar_session import LEAVING, READY
from backend.services import session_store as store
from backend.services import session_use
from backend.services.leases import LEASE_SECONDS
from backend.services.reconciliation import carry_out, decide
from backend.services.seats import Place
from backend.services.session_store import NOBODY, Row
from backend.services.sessions import Sessions

log = logging.getLogger("gateway.sessions")

ROUND_SECONDS = 3.0
USES_SECONDS = 10.0
LEASE = "avatar sessions"
# The manager ends an instance half an hour after its last start call, even while people are connected.
KEPT_FOR = timedelta(minutes=20)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a place is kept, in seconds: for a user without an offer, and for one who does nothing."""

    offer_seconds: float = 60.0
    idle_seconds: float = 1800.0


class Housekeeping:
    """Owns the rounds of this process; whoever has the lease does them."""

    def __init__(self, sessions: Sessions, patience: Patience) -> None:
        self._sessions = sessions
        self._patience = patience
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Compare now, and every ROUND_SECONDS."""
        rounds = (
            (self._leading_round, ROUND_SECONDS),
            (self._sessions.notes.write_offers, ROUND_SECONDS),
            (self._sessions.notes.write_uses, USES_SECONDS),
        )
        self._tasks = [asyncio.create_task(_again(work, seconds)) for work, seconds in rounds]

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._sessions.leases.give_back(LEASE)

    async def _leading_round(self) -> None:
        if await self._sessions.leases.take(LEASE, LEASE_SECONDS):
            await self.round()

    async def round(self) -> None:
        """Do what is to be done now. Raises GatewayError when database or manager do not answer."""
        if not await self._sessions.database.run(store.rows()):
            return
        await self._send_away()
        await self._compare()
        leaving = await self._sessions.database.run(store.rows(store.with_state(LEAVING)))
        self._sessions.departures.begin(leaving)
        await self._keep_busy_ones()

    async def _send_away(self) -> None:
        now, patience = self._sessions.now(), self._patience
        for reason, which in (
            ("its user is signed out", session_use.signed_out(now)),
            ("nobody uses it", session_use.unused(now, patience.offer_seconds, patience.idle_seconds)),
        ):
            rows = await self._sessions.database.run(store.leave(which))
            for row in rows:
                if row.state == LEAVING:
                    log.info("session %d is let go of: %s", row.id, reason)

    async def _compare(self) -> None:
        database = self._sessions.database
        rows = await database.run(store.rows())
        if not rows:
            return
        standing = await self._sessions.fleet.standing()
        decisions = decide(rows, standing, self._sessions.now())
        if decisions:
            log.info("sessions and instances differ: %r", decisions)
            await database.run(carry_out(rows, decisions, self._sessions.now()))

    async def _keep_busy_ones(self) -> None:
        """Have a connection counted and let go of it: that is a start call, and all the manager looks at."""
        if not self._sessions.fleet.counts:
            return
        ready = await self._sessions.database.run(store.rows(store.with_state(READY)))
        latest: dict[Place, Row] = {}
        for row in ready:
            if row.place is not None and (row.place not in latest or latest[row.place].kept_at < row.kept_at):
                latest[row.place] = row
        now = self._sessions.now()
        for place, row in latest.items():
            if row.kept_at + KEPT_FOR <= now:
                await self._sessions.start(NOBODY, place.avatar)
                await self._sessions.database.run(session_use.keep(place.instance_id, now))
                await self._sessions.release(NOBODY)


async def _again(work: Callable[[], Awaitable[None]], seconds: float) -> None:
    while True:
        try:
            await work()
        except GatewayError as error:
            log.info("avatar sessions are looked at later: %s", error.code)
        except Exception:
            log.exception("avatar sessions are looked at later")
        await asyncio.sleep(seconds)
