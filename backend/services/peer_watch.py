"""A watch over peer connections: a page that is closed says nothing, but its instance knows.

One process at a time asks for each connection whether it is still there, spread over the time of a round.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from backend.errors import GatewayError, NotFound, UpstreamRefused
from backend.models.avatar_session import READY
from backend.services import session_store as store
from backend.services.forwarding import Forwarder
from backend.services.policies import Timeouts
from backend.services.seats import Ports, Seat
from backend.services.session_store import Row
from backend.services.sessions import Sessions

log = logging.getLogger("gateway.sessions")

# Two rounds, a look and a release: less than ten seconds.
ROUND_SECONDS = 3.0
# A page that reconnects closes first: half a second later it starts again, which begins a new grace.
SURE_AFTER_SECONDS = 2.5
LEASE = "avatar peers"
LEASE_SECONDS = 9.0
# Of one round; a slow instance then holds up nobody but its own.
MOST_AT_ONCE = 16
LOOK = Timeouts(first_byte=2, idle=2, total=2)


@dataclass(frozen=True, slots=True)
class Missed:
    """A connection that was not there when it was looked for, first at `since`, on the monotonic clock."""

    peer_session: int
    since: float


class PeerWatch:
    """Owns the rounds of this process; whoever has the lease does them."""

    def __init__(
        self,
        sessions: Sessions,
        forwarder: Forwarder,
        ports: Ports,
        *,
        round_seconds: float = ROUND_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sessions = sessions
        self._forwarder = forwarder
        self._ports = ports
        self._round_seconds = round_seconds
        self._clock = clock
        self._missed: dict[int, Missed] = {}
        self._looking = asyncio.Semaphore(MOST_AT_ONCE)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._rounds(), name="peer watch")

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._sessions.leases.give_back(LEASE)

    async def round(self, spread_seconds: float = 0.0) -> None:
        """Look at every connection once, over so many seconds. Raises StoreUnavailable."""
        rows = await self._sessions.database.run(store.rows(store.with_state(READY)))
        watched = [row for row in rows if row.peer_session is not None and row.port is not None]
        known = {row.id for row in watched}
        self._missed = {row: missed for row, missed in self._missed.items() if row in known}
        pause = spread_seconds / len(watched) if watched else 0.0
        async with asyncio.TaskGroup() as group:
            for row in watched:
                await self._looking.acquire()
                group.create_task(self._look_and_go_on(row))
                if pause:
                    await asyncio.sleep(pause)

    async def _look_and_go_on(self, row: Row) -> None:
        try:
            await self._look(row)
        except GatewayError as error:
            log.info("a peer connection is looked at later: %s", error.code)
        finally:
            self._looking.release()

    async def _look(self, row: Row) -> None:
        seat = Seat(self._ports.upstream(row.port or 0), row.port or 0, row.peer_session, row.id)
        answer = None
        try:
            answer = await self._forwarder.ask(
                "POST", seat.upstream, "/is_speaking", LOOK, {"sessionid": row.peer_session}
            )
            self._sessions.fleet.dialect.object(answer.status, answer.content)
        except NotFound:
            await self._missing(row)
        except UpstreamRefused:
            await self._sessions.lost(seat)
        else:
            self._missed.pop(row.id, None)

    async def _missing(self, row: Row) -> None:
        now = self._clock()
        missed = self._missed.get(row.id)
        if missed is None or missed.peer_session != row.peer_session:
            self._missed[row.id] = Missed(row.peer_session or 0, now)
        elif now - missed.since >= SURE_AFTER_SECONDS:
            left = store.leave(*store.ready_row(row.id, row.peer_session))
            rows = await self._sessions.database.run(left)
            if rows:
                log.info("session %d is let go of: its peer connection has ended", row.id)
            self._sessions.departures.begin(rows)

    async def _rounds(self) -> None:
        while True:
            began = self._clock()
            try:
                if await self._sessions.leases.take(LEASE, LEASE_SECONDS):
                    await self.round(self._round_seconds * 0.8)
                else:
                    self._missed.clear()
            except GatewayError as error:
                log.info("peer connections are looked at later: %s", error.code)
            except Exception:
                log.exception("peer connections are looked at later")
            await asyncio.sleep(max(0.1, began + self._round_seconds - self._clock()))

    def __repr__(self) -> str:
        return f"<PeerWatch {len(self._missed)} missed>"
