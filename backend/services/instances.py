"""Avatar instances: starting one for a user, finding it again, letting go of it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote
from weakref import WeakValueDictionary

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from backend.errors import Conflict, GatewayError, UpstreamGarbage
from backend.models import AvatarSession
from backend.services.database import Database
from backend.services.dialects import MANAGER_BY_STATUS, json_object
from backend.services.forwarding import Forwarder, Upstream
from backend.services.policies import Timeouts
from backend.services.trail import TRAIL, shared

T = TypeVar("T")

log = logging.getLogger("gateway.instances")

# A cold start loads a model onto a GPU, behind one lock for everybody: a minute, sometimes two.
START_TIMEOUTS = Timeouts(first_byte=120, idle=10, total=130)
RELEASE_TIMEOUTS = Timeouts(first_byte=15, idle=5, total=20)
INFO_TIMEOUTS = Timeouts(first_byte=3, idle=3, total=5)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a user's avatar runs."""

    avatar: str
    instance_id: str
    port: int


@dataclass(frozen=True, slots=True)
class Seat:
    """A user's place at an instance: where to call, and the number of the user's peer connection there."""

    upstream: Upstream
    port: int
    peer_session: int | None


@dataclass(frozen=True, slots=True)
class Ports:
    """The one host and the ports where instances may live: nothing else is ever dialled."""

    host: str
    first: int
    last: int

    def upstream(self, port: int) -> Upstream:
        """Return the instance at a port. Raises UpstreamGarbage outside the range."""
        if not self.first <= port <= self.last:
            raise UpstreamGarbage("The avatar manager named a place where no avatar may live.")
        return Upstream.at("instance", f"http://{self.host}:{port}")


class Instances:
    """Asks the manager for instances and remembers in the database which user is on which.

    A change outlives the caller who asked for it: the manager makes it anyway, and only an instance that is
    remembered can be let go of. The changes of one user come one after another.
    """

    def __init__(
        self,
        forwarder: Forwarder,
        manager: Upstream,
        database: Database,
        ports: Ports,
        *,
        on_new: Callable[[int, str], Awaitable[None]] | None = None,
    ) -> None:
        """`on_new` is told user and avatar when an instance was made for them; it must not fail."""
        self._on_new = on_new
        self._forwarder = forwarder
        self._manager = manager
        self._database = database
        self._ports = ports
        self._turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
        self._changes: dict[tuple[int, str], asyncio.Task[Any]] = {}

    async def start(self, user_id: int, avatar: str) -> dict[str, Any]:
        """Ensure that the user is on a running instance of `avatar`; a former other one is let go of.

        The same start asked for twice at a time is one. Raises UpstreamBusy when the manager has no place.
        """
        return await self._once((user_id, avatar), lambda: self._start_and_tell(user_id, avatar))

    async def release(self, user_id: int) -> bool:
        """Let go of the user's instance; tell whether there was one."""
        return await self._once((user_id, ""), lambda: self._release(user_id))

    async def upstream_of(self, user_id: int) -> Upstream:
        """Return the user's own instance. Raises Conflict when the user has started none."""
        seat = await self.seat_of(user_id)
        if seat is None:
            raise Conflict("You have no running avatar. Please start one first.")
        return seat.upstream

    async def seat_of(self, user_id: int) -> Seat | None:
        """Return the user's place, None without one. Raises UpstreamGarbage outside the range of ports."""
        row = await self._database.run(lambda session: session.get(AvatarSession, user_id))
        return None if row is None else Seat(self._ports.upstream(row.port), row.port, row.peer_session)

    async def seated(self, user_id: int, port: int, peer_session: int) -> None:
        """Remember the number that an instance gave the user's peer connection.

        A user who has moved on to another port meanwhile keeps the newer state.
        """
        there = AvatarSession.user_id == user_id, AvatarSession.port == port
        seated = update(AvatarSession).where(*there).values(peer_session=peer_session)
        await self._database.run(lambda session: session.execute(seated).close())

    async def count(self) -> int:
        """Return how many users have an instance."""
        query = select(func.count()).select_from(AvatarSession)
        return await self._database.run(lambda session: session.execute(query).scalar_one())

    async def aclose(self) -> None:
        """Give up the changes under way."""
        changes = list(self._changes.values())
        for change in changes:
            change.cancel()
        await asyncio.gather(*changes, return_exceptions=True)

    async def _once(self, key: tuple[int, str], work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        change = self._changes.get(key)
        if change is None:
            turn = self._turns.setdefault(key[0], asyncio.Lock())
            change = shared(_in_turn(turn, work))
            self._changes[key] = change
            change.add_done_callback(lambda _: self._changes.pop(key))
        with TRAIL.get().waiting(self._manager.name):
            outcome: T = await asyncio.shield(change)
        return outcome

    async def _start_and_tell(self, user_id: int, avatar: str) -> dict[str, Any]:
        started = await self._start(user_id, avatar)
        if started["is_new_instance"] and self._on_new is not None:
            await self._on_new(user_id, avatar)
        return started

    async def _start(self, user_id: int, avatar: str) -> dict[str, Any]:
        before = await self._place(user_id)
        if before is not None and before.avatar == avatar:
            running = await self._running(before)
            if running is not None:
                await self._database.run(_unseat(user_id))
                return _started(running, before, is_new=False)
        request = {"avatar_id": f"{avatar}_user_{user_id}", "avatar_name": avatar}
        info = await self._ask("/avatar/start", request, START_TIMEOUTS)
        place = self._checked(info, avatar)
        replaced = await self._remembered(user_id, place)
        # Another process may have started one in the meantime: what it replaced counts as a connection, too.
        if replaced is not None and (replaced != before or replaced.instance_id != place.instance_id):
            await self.let_go(replaced)
        return _started(info, place, is_new=info.get("connections") == 1)

    async def _release(self, user_id: int) -> bool:
        place = await self._database.run(_forget(user_id))
        if place is None:
            return False
        await self.let_go(place)
        return True

    async def _remembered(self, user_id: int, place: Place) -> Place | None:
        try:
            return await self._database.run(_remember(user_id, place))
        except Conflict:  # the first row of this user came in between
            return await self._database.run(_remember(user_id, place))

    async def _place(self, user_id: int) -> Place | None:
        return await self._database.run(lambda session: place_of(session, user_id))

    async def _running(self, place: Place) -> dict[str, Any] | None:
        """Ask the manager whether an instance still is what and where it was; None when in doubt."""
        try:
            path = f"/avatar/info/{quote(place.instance_id, safe='')}"
            answer = await self._forwarder.ask("GET", self._manager, path, INFO_TIMEOUTS)
            info = _data(json_object(answer.status, answer.content))
        except GatewayError:
            return None
        same = info.get("port") == place.port and info.get("real_avatar_name") == place.avatar
        return info if same and info.get("running") else None

    async def let_go(self, place: Place) -> None:
        """Tell the manager that a place is not used any more; its failure is logged."""
        try:
            await self._ask("/avatar/disconnect", {"avatar_id": place.instance_id}, RELEASE_TIMEOUTS)
        except GatewayError as error:
            # The user has no further use for it; the manager's own reaper takes it in the end.
            log.warning("manager did not release an instance: %s", error.code)

    async def _ask(self, path: str, request: dict[str, str], timeouts: Timeouts) -> dict[str, Any]:
        answer = await self._forwarder.ask("POST", self._manager, path, timeouts, request)
        return _data(json_object(answer.status, answer.content, MANAGER_BY_STATUS))

    def _checked(self, info: dict[str, Any], avatar: str) -> Place:
        port, instance_id = info.get("port"), info.get("avatar_id")
        if not isinstance(port, int) or not isinstance(instance_id, str) or not _usable(instance_id):
            raise UpstreamGarbage("The avatar manager did not say where the avatar runs.")
        # Another instance may have lived, and died, at this port before.
        self._forwarder.readmit(self._ports.upstream(port))
        return Place(avatar, instance_id, port)


async def _in_turn(turn: asyncio.Lock, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    async with turn:
        return await work()


def _usable(instance_id: str) -> bool:
    """Tell whether an instance id can be stored and asked for again."""
    return 0 < len(instance_id) <= 160 and instance_id.isprintable()


def _data(envelope: dict[str, Any]) -> dict[str, Any]:
    data = envelope.get("data")
    return data if isinstance(data, dict) else {}


def _started(info: dict[str, Any], place: Place, *, is_new: bool) -> dict[str, Any]:
    return {
        "status": "success",
        "avatar_id": place.instance_id,
        "port": place.port,
        # The gateway's own address: where an instance really lives is nobody's business.
        "webrtc_url": "/api/webrtc",
        "gpu": info.get("gpu"),
        "connections": info.get("connections", 1),
        "is_new_instance": is_new,
        "message": f"{place.avatar} is ready.",
    }


def place_of(session: Session, user_id: int) -> Place | None:
    """Return where a user's avatar runs, if one does."""
    row = session.get(AvatarSession, user_id)
    return None if row is None else Place(row.avatar, row.instance_id, row.port)


def _remember(user_id: int, place: Place) -> Callable[[Session], Place | None]:
    def work(session: Session) -> Place | None:
        # Locks the row, or all of SQLite, which knows no FOR UPDATE: what is read next is what is replaced.
        mine = AvatarSession.user_id == user_id
        session.execute(update(AvatarSession).where(mine).values(port=AvatarSession.port))
        replaced = place_of(session, user_id)
        session.merge(
            AvatarSession(
                user_id=user_id,
                avatar=place.avatar,
                instance_id=place.instance_id,
                port=place.port,
                peer_session=None,  # the next offer brings another one
            )
        )
        return replaced

    return work


def _unseat(user_id: int) -> Callable[[Session], None]:
    """A new start comes before a new peer connection: the former one is not spoken to any more."""

    def work(session: Session) -> None:
        session.execute(
            update(AvatarSession).where(AvatarSession.user_id == user_id).values(peer_session=None)
        )

    return work


def _forget(user_id: int) -> Callable[[Session], Place | None]:
    def work(session: Session) -> Place | None:
        row = session.get(AvatarSession, user_id)
        if row is None:
            return None
        session.delete(row)
        return Place(row.avatar, row.instance_id, row.port)

    return work
