"""Avatar sessions: every user on the own instance, whichever process asks, and off it when gone."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from backend.errors import Conflict, GatewayError, NoFreePlace, StoreUnavailable, UpstreamTotalTimeout
from backend.models.avatar_session import READY, STARTING, UNSURE
from backend.models.base import utc_now
from backend.services import session_store as store
from backend.services import session_use
from backend.services.cold_starts import LOOK_SECONDS, STILL_STARTING, WAIT_SECONDS, ColdStarts
from backend.services.database import Database
from backend.services.departures import Departures
from backend.services.fleet import Fleet, Misplaced, Unsure
from backend.services.leases import LEASE_SECONDS, RENEW_SECONDS, Leases
from backend.services.seats import Ports, Seat, Standing
from backend.services.session_notes import SessionNotes
from backend.services.session_store import NOBODY, SETTLED_AFTER, Met, Row
from backend.services.trail import TRAIL, shared
from backend.services.waiting_line import RETRY_SECONDS, WaitingLine

T = TypeVar("T")

log = logging.getLogger("gateway.sessions")

LEASE = timedelta(seconds=LEASE_SECONDS)
# Between two attempts of somebody who waits in line.
TURN_SECONDS = 1.0
# What a stop spends on noting that a start was given up; the row tells the same a little later.
NOTE_SECONDS = 1.0
# A worker may die: what a user is told of a peer connection is kept before. Two waits for the lock.
KEEP_SECONDS = 10.0
NONE = "You have no running avatar. Please start one first."
CALLED_OFF = "Your avatar was released while it started. Please start it again."


@dataclass(frozen=True, slots=True)
class Started:
    """Where a user's avatar runs now; `is_new` when it was started for this."""

    standing: Standing
    is_new: bool

    def told(self) -> dict[str, Any]:
        """Return what the caller is told."""
        place = self.standing.place
        return {
            "status": "success",
            "avatar_id": place.instance_id,
            "port": place.port,
            # The gateway's own address: where an instance really lives is nobody's business.
            "webrtc_url": "/api/webrtc",
            "gpu": self.standing.gpu,
            "connections": 1 if self.standing.connections is None else self.standing.connections,
            "is_new_instance": self.is_new,
            "message": f"{place.avatar} is ready.",
        }


class Sessions:
    """The avatar sessions of all users, as one process sees and changes them; the database has the truth.

    A start outlives the caller who asked for it: the instance is made anyway, and only what is remembered can
    be let go of. The starts of one user come one after another, in all processes.
    """

    def __init__(
        self,
        fleet: Fleet,
        database: Database,
        ports: Ports,
        *,
        most_waiting: int = 100,
        on_new: Callable[[int, str], Awaitable[None]] | None = None,
        keep_seconds: float = KEEP_SECONDS,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        """`on_new` is told user and avatar when an instance was made for them; it must not fail."""
        holder = uuid.uuid4().hex
        self.fleet = fleet
        self.database = database
        self.leases = Leases(database, holder, now=now)
        self.departures = Departures(fleet, database, holder, now=now)
        self.notes = SessionNotes(database, now)
        self.now = now
        self._line = WaitingLine(database, most=most_waiting, now=now)
        self._cold = ColdStarts(database, self.leases, self._line)
        self._ports = ports
        self._keep_seconds = keep_seconds
        self._on_new = on_new
        self._turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
        self._changes: dict[tuple[int, str], asyncio.Task[Any]] = {}

    async def start(self, user_id: int, avatar: str, *, wait_seconds: float = 0.0) -> dict[str, Any]:
        """Ensure that the user is on a running instance of `avatar`; a former other one is let go of.

        The same start asked for twice at a time is one. Raises NoFreePlace when every instance is taken, with
        the place in the line, after waiting for `wait_seconds`.
        """
        began = time.monotonic()
        while True:
            try:
                return (await self._once((user_id, avatar), lambda: self._start(user_id, avatar))).told()
            except NoFreePlace as full:
                left = began + wait_seconds - time.monotonic()
                if full.position is None or left <= 0:
                    raise
                await asyncio.sleep(min(TURN_SECONDS, left))

    async def release(self, user_id: int) -> bool:
        """Let go of the user's instance, and of a start under way; tell whether there was one."""
        await self._line.leave(user_id)
        rows = await self.database.run(store.leave(store.of_user(user_id)))
        self.departures.begin(rows)
        return bool(rows)

    async def seat_of(self, user_id: int) -> Seat | None:
        """Return the user's place, None without one; note the use. Raises UpstreamGarbage."""
        row = await self.database.run(store.seat(user_id))
        if row is None or row.port is None:
            return None
        self.notes.use(user_id)
        peer_session = self.notes.peer_session(row.id) if row.peer_session is None else row.peer_session
        return Seat(self._ports.upstream(row.port), row.port, peer_session, row.id)

    async def seated(self, seat: Seat, peer_session: int) -> bool:
        """Remember the number that an instance gave the user's peer connection.

        A user who has moved on meanwhile keeps the newer state. Raises StoreUnavailable; it is written later.
        """
        self.notes.offer(seat.row, None)
        late = time.monotonic() + self._keep_seconds
        while True:
            try:
                return await self.database.run(store.reseat(seat.row, self.now(), peer_session))
            except StoreUnavailable:
                if time.monotonic() >= late:
                    self.notes.offer(seat.row, peer_session)
                    raise
                await asyncio.sleep(LOOK_SECONDS)

    async def lost(self, seat: Seat) -> None:
        """Forget a seat whose instance refuses connections: what lives at its port next is another one."""
        log.warning("an avatar instance has ended at port %d", seat.port)
        if self.fleet.counts:
            await self.database.run(store.lose(seat.row, self.now(), READY))
        else:
            await self.database.run(store.drop(seat.row, READY))

    async def count(self) -> dict[int, int]:
        """Return how many users are at each port."""
        return await self.database.run(session_use.counts)

    async def aclose(self) -> None:
        """Give up the changes under way; another process sees to what they left."""
        changes = list(self._changes.values())
        for change in changes:
            change.cancel()
        await asyncio.gather(*changes, return_exceptions=True)
        await self.departures.aclose()

    async def _once(self, key: tuple[int, str], work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        change = self._changes.get(key)
        if change is None:
            turn = self._turns.setdefault(key[0], asyncio.Lock())
            change = shared(_in_turn(turn, work))
            self._changes[key] = change
            change.add_done_callback(lambda ended: self._ended(key, ended))
        with TRAIL.get().waiting("manager"):
            outcome: T = await asyncio.shield(change)
        return outcome

    def _ended(self, key: tuple[int, str], change: "asyncio.Task[Any]") -> None:
        del self._changes[key]
        if not change.cancelled():
            change.exception()  # the waiters have it, unless all have left

    async def _start(self, user_id: int, avatar: str) -> Started:
        late = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < late:
            now = self.now()
            beginning = store.begin(user_id, avatar, self.leases.holder, now, now + LEASE)
            begun = await self.database.run(beginning)
            if begun.met is Met.BUSY:
                await asyncio.sleep(LOOK_SECONDS)
            elif begun.met is Met.OWN:
                return await self._started(begun.row)
            elif (standing := await self._still_stands(begun.row)) is not None:
                return Started(standing, is_new=False)
        raise UpstreamTotalTimeout(STILL_STARTING)

    async def _still_stands(self, row: Row) -> Standing | None:
        """Return where a ready session is, made fit for another offer; None when it has to be started anew.

        While the manager cannot say, what is known holds: the next offer tells.
        """
        assert row.place is not None  # noqa: S101 - a ready row has one
        try:
            standing = await self.fleet.find(row.place)
        except GatewayError as error:
            log.info("whether an instance still runs is not known: %s", error.code)
            standing = Standing(row.place)
        if standing is None:
            gone = store.lose(row.id, self.now(), READY) if self.fleet.counts else store.drop(row.id, READY)
            await self.database.run(gone)
            return None
        # A new start comes before a new peer connection: the former one is not spoken to any more.
        kept = await self.database.run(store.reseat(row.id, self.now(), None))
        return standing if kept else None

    async def _started(self, row: Row) -> Started:
        beat = asyncio.create_task(self._beat(row))
        failure: GatewayError
        try:
            return await self._fill(row)
        except Unsure as unsure:
            failure = unsure.error
            await self._note(store.lose(row.id, self.now() + SETTLED_AFTER, STARTING))
        except Misplaced as misplaced:
            failure = misplaced.error
            await self._misplaced(row, misplaced)
        except NoFreePlace:
            await self._note(store.drop(row.id, STARTING))
            failure = await self._in_line(row.user_id)
        except GatewayError:
            await self._note(store.drop(row.id, STARTING, UNSURE))
            raise
        except asyncio.CancelledError:
            await self._note(store.lose(row.id, self.now() + SETTLED_AFTER, STARTING))
            raise
        finally:
            beat.cancel()
        # Not among the handlers: what was the cause of an exception must not be caused by it.
        raise failure

    async def _fill(self, row: Row) -> Started:
        """Start the avatar of a row and settle it there."""
        async with (
            self._cold.turn(row.user_id, row.avatar) if self.fleet.counts else contextlib.nullcontext()
        ):
            standing = await self.fleet.start(row.user_id, row.avatar)
            try:
                settled = await self.database.run(store.settle(row, standing, self.now()))
            except GatewayError as error:  # it is started, and nobody knows of it
                raise Unsure(error) from error
        if settled is None:
            raise NoFreePlace
        settled_row, replaced = settled
        self.departures.begin([settled_row] if replaced is None else [settled_row, replaced])
        if settled_row.state != READY:
            raise Conflict(CALLED_OFF)
        found = next((each for each in standing if each.place == settled_row.place), standing[0])
        started = Started(found, is_new=found.connections == 1)
        if started.is_new and self._on_new is not None and row.user_id != NOBODY:
            await self._on_new(row.user_id, row.avatar)
        return started

    async def _misplaced(self, row: Row, misplaced: Misplaced) -> None:
        """Let go of an instance that may not be used."""

        def settle_out(session: Any) -> Row | None:
            store.leave(store.of_row(row.id))(session)
            settled = store.settle(row, [Standing(misplaced.place)], self.now())(session)
            return None if settled is None else settled[0]

        with contextlib.suppress(GatewayError):  # without a database it is found at the manager later
            settled = await self.database.run(settle_out)
            self.departures.begin([settled] if settled is not None else [])

    async def _in_line(self, user_id: int) -> NoFreePlace:
        position = await self._line.stand(user_id)
        return NoFreePlace(retry_after_seconds=RETRY_SECONDS, position=position)

    async def _beat(self, row: Row) -> None:
        """Keep a start in the hands of this process while it lasts."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            with contextlib.suppress(GatewayError):
                await self.database.run(store.beat(row.id, self.leases.holder, self.now() + LEASE))
                await self._cold.renew()

    async def _note(self, change: Callable[[Any], None]) -> None:
        """Write down how a start ended; when that fails, the end of its lease says as much."""
        with contextlib.suppress(GatewayError, TimeoutError):
            async with asyncio.timeout(NOTE_SECONDS):
                await self.database.run(change)

    def __repr__(self) -> str:
        return f"<Sessions {len(self._changes)} changes under way>"


async def _in_turn(turn: asyncio.Lock, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    async with turn:
        return await work()
