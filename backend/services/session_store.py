"""The table of avatar sessions: each change is one transaction, and all of them come one after another.

start ──► starting ──► ready ──► leaving ──► gone        a call that ended without an answer: unsure,
              │  └───────────────▲  │                    until the manager's count tells what became of it
              └────► unsure ◄───────┘
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session

from backend.models import AvatarSession, AvatarTicket
from backend.models.avatar_session import LEAVING, READY, STARTING, UNSURE
from backend.services import waiting_line
from backend.services.seats import Place, Standing

# Beyond every limit of a call to the manager: until then a call that was given up may still be done.
SETTLED_AFTER = timedelta(seconds=150)
# The gateway itself, which keeps instances from being taken for idle.
NOBODY = 0
TURN = 8_203_018  # key of PostgreSQL's advisory lock


class Met(Enum):
    """What a start finds: `OWN` a row that is its own to fill, `BUSY` another start of the same user."""

    OWN = "own"
    BUSY = "busy"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it was read."""

    id: int
    user_id: int
    avatar: str
    instance_id: str | None
    port: int | None
    state: str
    wanted: bool
    counted: bool
    holder: str | None
    due_at: datetime | None
    peer_session: int | None
    started_at: datetime
    used_at: datetime
    kept_at: datetime

    @property
    def place(self) -> Place | None:
        if self.instance_id is None or self.port is None:
            return None
        return Place(self.avatar, self.instance_id, self.port)

    def same_as(self, other: "Row") -> bool:
        """Tell whether nothing but the use changed."""
        return self == replace(
            other, used_at=self.used_at, kept_at=self.kept_at, peer_session=self.peer_session
        )


@dataclass(frozen=True, slots=True)
class Begun:
    met: Met
    row: Row


def _row(found: AvatarSession) -> Row:
    return Row(**{name: getattr(found, name) for name in Row.__slots__})


def lock(session: Session) -> None:
    """Let nobody else change sessions before this transaction ends."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(TURN)))
    else:
        # A statement that could write locks all of SQLite, also one that finds nothing.
        session.execute(update(AvatarSession).where(AvatarSession.id == -1).values(state=AvatarSession.state))


def _of(session: Session, user_id: int, state: str) -> AvatarSession | None:
    mine = AvatarSession.user_id == user_id, AvatarSession.state == state
    return session.scalar(select(AvatarSession).where(*mine))


def begin(
    user_id: int, avatar: str, holder: str, now: datetime, until: datetime
) -> Callable[[Session], Begun]:
    """Find the user's session with the avatar, or make room for a start of it."""

    def work(session: Session) -> Begun:
        lock(session)
        under_way = _of(session, user_id, STARTING)
        if under_way is not None:
            if under_way.due_at is not None and under_way.due_at > now:
                under_way.wanted = under_way.wanted or under_way.avatar == avatar
                return Begun(Met.BUSY, _row(under_way))
            _lose(under_way, now + SETTLED_AFTER)
            session.flush()
        ready = _of(session, user_id, READY)
        if ready is not None and ready.avatar == avatar:
            return Begun(Met.READY, _row(ready))
        made = AvatarSession(user_id=user_id, avatar=avatar, state=STARTING, holder=holder, due_at=until)
        made.started_at = made.used_at = made.kept_at = now
        session.add(made)
        session.flush()
        return Begun(Met.OWN, _row(made))

    return work


def beat(row_id: int, holder: str, until: datetime) -> Callable[[Session], None]:
    """Keep a start in its holder's hands."""
    mine = AvatarSession.id == row_id, AvatarSession.holder == holder, AvatarSession.state == STARTING
    beating = update(AvatarSession).where(*mine).values(due_at=until)
    return lambda session: session.execute(beating).close()


def settle(
    started: Row, standing: Sequence[Standing], now: datetime
) -> Callable[[Session], tuple[Row, Row | None] | None]:
    """Give a start the first of the places that has room; return its row and the one that it replaced.

    None without room. A start that nobody wants any more, or that was given up, is on its way out.
    """

    def work(session: Session) -> tuple[Row, Row | None] | None:
        lock(session)
        place = _with_room(session, started.user_id, standing, now)
        if place is None:
            return None
        found = session.get(AvatarSession, started.id)
        if found is None:
            found = AvatarSession(user_id=started.user_id, avatar=started.avatar, state=UNSURE, wanted=False)
            found.started_at = found.kept_at = started.started_at
            session.add(found)
        elif found.state not in (STARTING, UNSURE):
            return _row(found), None  # it was found at the manager and settled by that
        overtaken = found.state == UNSURE and is_elsewhere(session, found.user_id)
        found.instance_id, found.port = place.instance_id, place.port
        found.holder = found.due_at = None
        found.used_at = now
        replaced = None
        if found.wanted and not overtaken:
            replaced = _of(session, found.user_id, READY)
            if replaced is not None:
                replaced.state = LEAVING
                session.flush()  # there is one ready row a user
            found.state = READY
            session.execute(delete(AvatarTicket).where(AvatarTicket.user_id == found.user_id))
        else:
            found.state = LEAVING
        session.flush()
        return _row(found), None if replaced is None else _row(replaced)

    return work


def _with_room(session: Session, user_id: int, standing: Sequence[Standing], now: datetime) -> Place | None:
    """Return the emptiest place with room, where those who came first leave any."""
    if all(each.room is None for each in standing):
        return standing[0].place if standing else None
    others = AvatarSession.state == READY, AvatarSession.user_id != user_id
    query = select(AvatarSession.port).where(*others)
    taken = Counter(session.scalars(query))
    free = {each.place: (each.room or 0) - taken[each.place.port] for each in standing}
    if sum(room for room in free.values() if room > 0) <= waiting_line.ahead_of(session, user_id, now):
        return None
    return max(free, key=lambda place: free[place])


def is_elsewhere(session: Session, user_id: int) -> bool:
    active = AvatarSession.user_id == user_id, AvatarSession.state.in_((STARTING, READY))
    return session.scalar(select(AvatarSession.id).where(*active).limit(1)) is not None


def drop(row_id: int, *states: str) -> Callable[[Session], None]:
    """Forget a row, if it is in one of the states."""

    def work(session: Session) -> None:
        lock(session)
        fitting = AvatarSession.id == row_id, AvatarSession.state.in_(states)
        session.execute(delete(AvatarSession).where(*fitting))

    return work


def lose(row_id: int, due_at: datetime, *states: str) -> Callable[[Session], None]:
    """Note that nobody knows whether a connection is counted; by `due_at` it must have turned out."""

    def work(session: Session) -> None:
        lock(session)
        found = session.get(AvatarSession, row_id)
        if found is not None and found.state in states:
            _lose(found, due_at)

    return work


def _lose(found: AvatarSession, due_at: datetime) -> None:
    found.state, found.holder, found.due_at = UNSURE, None, due_at
    found.peer_session = None


def leave(*where: ColumnElement[bool]) -> Callable[[Session], list[Row]]:
    """Send what is ready on its way out, call off what is starting; return the rows that were.

    What is unsure is not given to its user any more, should it turn out to be counted.
    """

    def work(session: Session) -> list[Row]:
        lock(session)
        active = AvatarSession.state.in_((STARTING, READY, UNSURE))
        found = list(session.scalars(select(AvatarSession).where(active, *where)))
        for each in found:
            if each.state == READY:
                each.state = LEAVING
            else:
                each.wanted = False
        session.flush()
        return [_row(each) for each in found if each.state != UNSURE]

    return work


def of_user(user_id: int) -> ColumnElement[bool]:
    return AvatarSession.user_id == user_id


def of_row(row_id: int) -> ColumnElement[bool]:
    return AvatarSession.id == row_id


def ready_row(row_id: int, peer_session: int | None) -> tuple[ColumnElement[bool], ...]:
    """A ready row that still has this peer connection, or none yet."""
    return (
        AvatarSession.id == row_id,
        AvatarSession.state == READY,
        AvatarSession.peer_session.is_not_distinct_from(peer_session),
    )


def take_out(row_id: int, holder: str, until: datetime) -> Callable[[Session], Row | None]:
    """Claim a row that is on its way out; None when it is not there or in other hands."""

    def work(session: Session) -> Row | None:
        lock(session)
        found = session.get(AvatarSession, row_id)
        if found is None or found.state != LEAVING or found.holder is not None:
            return None
        found.holder, found.due_at = holder, until
        session.flush()
        return _row(found)

    return work


def put_back(row_id: int, holder: str) -> Callable[[Session], None]:
    """Let somebody else take a row out later."""
    mine = AvatarSession.id == row_id, AvatarSession.state == LEAVING, AvatarSession.holder == holder
    returning = update(AvatarSession).where(*mine).values(holder=None, due_at=None)
    return lambda session: session.execute(returning).close()


def rows(*where: ColumnElement[bool]) -> Callable[[Session], list[Row]]:
    query = select(AvatarSession).where(*where).order_by(AvatarSession.id)
    return lambda session: [_row(each) for each in session.scalars(query)]


def with_state(*states: str) -> ColumnElement[bool]:
    return AvatarSession.state.in_(states)


def seat(user_id: int) -> Callable[[Session], Row | None]:
    def work(session: Session) -> Row | None:
        found = _of(session, user_id, READY)
        return None if found is None else _row(found)

    return work


def is_warm(avatar: str) -> Callable[[Session], bool]:
    """Tell whether somebody is on the avatar, so that it need not be started cold."""
    there = AvatarSession.avatar == avatar, AvatarSession.state == READY
    return lambda session: session.scalar(select(AvatarSession.id).where(*there).limit(1)) is not None


def reseat(row_id: int, now: datetime, peer_session: int | None) -> Callable[[Session], bool]:
    """Set the peer connection of a ready row: None before a new offer, then the number of its answer."""
    mine = AvatarSession.id == row_id, AvatarSession.state == READY
    setting = update(AvatarSession).where(*mine).values(peer_session=peer_session, used_at=now)
    return lambda session: (
        session.execute(setting.returning(AvatarSession.id)).scalar_one_or_none() is not None
    )


def first_seat(row_id: int, now: datetime, peer_session: int) -> Callable[[Session], None]:
    """Set the peer connection of a ready row late, unless there is one by now."""
    mine = ready_row(row_id, None)
    setting = update(AvatarSession).where(*mine).values(peer_session=peer_session, used_at=now)
    return lambda session: session.execute(setting).close()
