"""How long a sign-in lives: five hours from its last use, a week in all.

A use is noted in memory, which costs a call nothing, and written to the database later, for many at once.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy.exc import SQLAlchemyError

from backend.errors import StoreUnavailable
from backend.models import login_session
from backend.services.claims import LIFE_SECONDS
from backend.services.database import Database
from backend.services.live_sessions import Live, LiveSessions, Principal

log = logging.getLogger(__name__)

# A token that leaked and is kept in use by a script ends some day, and a password is asked for once a week.
LONGEST_SECONDS = 7 * 86_400
WRITE_SECONDS = 10.0  # between two looks at what is to be written
WORTH_SECONDS = 60.0  # a use that prolongs a life by less is not written: so a user costs a write a minute
LAST_WRITE_SECONDS = 2.0  # what a stop waits for it: a minute of five hours is lost at most


class SessionLife:
    """Who used the gateway when, and till when their sessions live for it; all on one event loop."""

    def __init__(
        self, database: Database, sessions: LiveSessions, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._clock = clock
        self._used: dict[int, float] = {}  # last use, Unix seconds; only of users whose session is known
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._write_now_and_then(), name="session life")

    async def aclose(self) -> None:
        """Write what is not written yet, if that is soon done."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        try:
            async with asyncio.timeout(LAST_WRITE_SECONDS):
                await self.write(worth_seconds=1.0)
        except (TimeoutError, StoreUnavailable, SQLAlchemyError) as exc:
            log.warning("the last use of sign-ins could not be written: %r", exc)

    def used(self, user_id: int) -> None:
        """Note a use just now."""
        self._used[user_id] = self._clock()

    def until(self, principal: Principal) -> float:
        """Return till when a session lives by what this process knows, Unix seconds."""
        live, used = self._sessions.get(principal.user_id), self._used.get(principal.user_id)
        if used is None or live is None:
            return principal.expires_at
        return max(principal.expires_at, min(used + LIFE_SECONDS, live.started_at + LONGEST_SECONDS))

    async def renew(self, principal: Principal, until: float) -> bool:
        """Write one session's new end, for every process to know; tell whether it still lives.

        Raises StoreUnavailable.
        """
        turn, now_us = self._sessions.turn, int(self._clock() * 1_000_000)
        changed_at = await self._database.run(
            lambda s: login_session.renew(s, principal.user_id, principal.jti, _moment(until), now_us)
        )
        if changed_at is None:
            return False
        self._learn(principal, until, turn, changed_at)
        return True

    async def write(self, *, worth_seconds: float = WORTH_SECONDS) -> None:
        """Write what prolongs lives by so much at least; raises StoreUnavailable."""
        turn = self._sessions.turn
        due: dict[int, Principal] = {}
        for user_id in list(self._used):
            live = self._sessions.get(user_id)
            if live is None or live.principal is None:  # ended; or looked up again when it is next used
                del self._used[user_id]
                continue
            until = self.until(live.principal)
            if until - live.principal.expires_at >= worth_seconds:
                due[user_id] = replace(live.principal, expires_at=until)
        if not due:
            return
        ends = {user_id: _moment(principal.expires_at) for user_id, principal in due.items()}
        await self._database.run(lambda s: login_session.prolong(s, ends))
        for principal in due.values():
            self._learn(principal, principal.expires_at, turn)

    def _learn(self, principal: Principal, until: float, turn: int, changed_at: int = 0) -> None:
        live = self._sessions.get(principal.user_id)
        if live is not None and live.principal is not None and live.jti == principal.jti:
            longer = Live(
                max(changed_at, live.changed_at),
                live.jti,
                replace(live.principal, expires_at=max(until, live.principal.expires_at)),
                live.started_at,
            )
            self._sessions.learn(principal.user_id, longer, turn)

    async def _write_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            try:
                await self.write()
            except (StoreUnavailable, SQLAlchemyError) as exc:
                log.debug("the use of sign-ins is written later: %r", exc)  # the poll tells of the outage


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
