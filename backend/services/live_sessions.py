"""What one process knows of the live sign-ins: a copy of `login_session`, kept fresh by polls.

Each poll asks for what changed since the last one, and now and then for everything. Where a change feed is
(see `change_feed`), it tells at once whose sign-in changed; while nothing of it can have been missed, polls
are rare.

What was read before a change was heard of may be older than the change: every read carries the turn in which
it began, and is not believed for whoever was forgotten since.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from backend.errors import StoreUnavailable
from backend.models import login_session
from backend.models.user import BANNED
from backend.services.change_feed import ChangeFeed
from backend.services.claims import LEEWAY_SECONDS
from backend.services.database import Database
from backend.services.recent import Recent

log = logging.getLogger(__name__)

MAX_AGE_SECONDS = 30.0  # of the copy; beyond, a revoked token might pass: refuse to judge
OVERLAP_SECONDS = 10.0  # each poll asks this much further back, for late commits and differing clocks
FULL_LOAD_SECONDS = 15.0  # everything anew: finds edits made by hand
MAX_BACKOFF_SECONDS = 5.0  # between polls while the database is away
RELAXED_SECONDS = 5.0  # between polls while the feed tells of every change
MAX_FORGOTTEN = 10_000  # users of whom something was heard lately


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking; `expires_at` is Unix time in seconds, and moves on with use."""

    user_id: int
    email: str
    role: str
    jti: str
    expires_at: float

    @property
    def is_tutor(self) -> bool:
        return self.role == "tutor"


class Live(NamedTuple):
    """What is known of one user's session; `started_at` is Unix time in seconds.

    `principal` is None for a banned or deleted user and after signing out.
    """

    changed_at: int
    jti: str | None
    principal: Principal | None
    started_at: float


class LiveSessions:
    """The copy, all on one event loop; `get` and `stale` on any thread."""

    def __init__(
        self,
        database: Database,
        *,
        staleness_seconds: float,
        feed: ChangeFeed | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._staleness_seconds = staleness_seconds
        self._feed = feed
        self._clock = clock
        self._monotonic = monotonic
        self._live: dict[int, Live] = {}
        self.turn = 0
        self._forgotten: Recent[int, int] = Recent(MAX_FORGOTTEN)
        self._lookups: dict[int, asyncio.Task[Live | None]] = {}
        self._refreshing = asyncio.Lock()
        self._polled_at = self._loaded_at = -math.inf  # monotonic
        self._polled_clock = 0.0  # Unix seconds
        self._outage = False
        self._poll_task: asyncio.Task[None] | None = None
        if feed is not None:
            feed.on_change = self.forget

    async def start(self) -> None:
        """Learn every live session and keep learning."""
        await self._refreshed()
        self._poll_task = asyncio.create_task(self._poll(), name="token poll")

    async def aclose(self) -> None:
        tasks = [*self._lookups.values(), *([self._poll_task] if self._poll_task else [])]
        self._poll_task = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def stale(self) -> bool:
        """Whether this is too old to judge by."""
        return self._monotonic() - self._polled_at > MAX_AGE_SECONDS

    @property
    def age_seconds(self) -> float:
        return self._monotonic() - self._polled_at

    def get(self, user_id: int) -> Live | None:
        """Return what is known of a user; None for nothing, which does not mean that there is nothing."""
        return self._live.get(user_id)

    def __len__(self) -> int:
        return len(self._live)

    def learn(self, user_id: int, live: Live, turn: int) -> None:
        """Remember what was written or read from that turn on, unless it was overtaken meanwhile."""
        if self._forgotten_since(user_id, turn):
            return
        known = self._live.get(user_id)
        if known is None or known.changed_at <= live.changed_at:
            self._live[user_id] = live

    def forget(self, user_id: int) -> None:
        """Believe nothing of a user that was read before now."""
        self.turn += 1
        self._forgotten.put(user_id, self.turn)
        self._live.pop(user_id, None)

    def looking_up(self, user_id: int) -> bool:
        return user_id in self._lookups

    async def look_up(self, user_id: int) -> Live | None:
        """Ask the database about one user, once for all who ask, and return what was there."""
        task = self._lookups.get(user_id)
        if task is None:
            task = self._lookups[user_id] = asyncio.create_task(self._read(user_id), name="token look-up")
            task.add_done_callback(lambda done: self._looked_up(user_id, done))
        return await asyncio.shield(task)  # one who leaves takes nothing from the others

    async def refresh(self) -> None:
        """One poll: bring the copy up to date; raises StoreUnavailable."""
        async with self._refreshing:
            if self._feed is not None:
                self._feed.caught_up()  # what is missed from here on needs another poll
            began, clock, turn = self._monotonic(), self._clock(), self.turn
            if began - self._loaded_at >= FULL_LOAD_SECONDS:
                before = dict(self._live)
                unexpired = login_session.unexpired(_moment(clock - LEEWAY_SECONDS))
                self._replace(before, await self._database.run(lambda s: rows(s, unexpired)), turn)
                self._loaded_at = began
            else:
                # A clock that was set back must not hide what changes now.
                since = _moment(min(self._polled_clock, clock) - OVERLAP_SECONDS)
                changed = await self._database.run(lambda s: rows(s, *login_session.changed(since)))
                for user_id, live in changed.items():
                    self.learn(user_id, live, turn)
            self._polled_at, self._polled_clock = began, clock

    def _looked_up(self, user_id: int, task: asyncio.Task[Live | None]) -> None:
        del self._lookups[user_id]
        if not task.cancelled():
            task.exception()  # the waiters have it, unless all have left

    async def _read(self, user_id: int) -> Live | None:
        turn = self.turn
        found = await self._database.run(lambda s: rows(s, login_session.of_user(user_id)))
        for live in found.values():
            self.learn(user_id, live, turn)
        return found.get(user_id)

    def _forgotten_since(self, user_id: int, turn: int) -> bool:
        return (self._forgotten.get(user_id) or 0) > turn

    def _replace(self, before: dict[int, Live], loaded: dict[int, Live], turn: int) -> None:
        """Trust the load for everything but what was learnt or forgotten while it ran."""
        if self.turn > turn:
            loaded = {u: live for u, live in loaded.items() if not self._forgotten_since(u, turn)}
        for user_id, known in self._live.items():
            if known is not before.get(user_id):
                row = loaded.get(user_id)
                if row is None or row.changed_at < known.changed_at:
                    loaded[user_id] = known
        self._live = loaded

    async def _poll(self) -> None:
        delay = self._staleness_seconds
        while True:
            await asyncio.sleep(delay)
            if self._feed is not None and not self._outage:
                await self._feed.trouble(RELAXED_SECONDS - delay)
            reached = await self._refreshed()
            delay = self._staleness_seconds if reached else min(delay * 2, MAX_BACKOFF_SECONDS)

    async def _refreshed(self) -> bool:
        try:
            await self.refresh()
        except (StoreUnavailable, SQLAlchemyError) as exc:
            if not self._outage:
                log.warning("sign-ins cannot be read, trying again until they can: %r", exc.__cause__ or exc)
            self._outage = True
            return False
        if self._outage:
            log.info("sign-ins can be read again")
        self._outage = False
        return True


def rows(session: Session, *queries: login_session.Found) -> dict[int, Live]:
    """Run queries; in a thread, so that ten thousand sessions do not hold up the loop."""
    live = {}
    for query in queries:
        for user_id, changed_at, jti, started_at, expires_at, email, role, status in session.execute(query):
            principal = None
            if jti is not None and email is not None and role is not None and status != BANNED:
                principal = Principal(user_id, email, role, jti, expires_at.timestamp())
            live[user_id] = Live(changed_at, jti, principal, started_at.timestamp())
    return live


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
