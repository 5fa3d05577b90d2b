"""The line in front of avatars that have no free place: who came first is first, also across processes.

A ticket is void when its user has not asked again for a while; whoever asks again keeps the place.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from backend.errors import NoFreePlace
from backend.models.avatar_ticket import AvatarTicket
from backend.models.base import utc_now
from backend.services.database import Database

# Whoever is told to come back gets a little longer than that, for a slow line and a busy browser.
RETRY_SECONDS = 5
TICKET_SECONDS = 15.0
FULL = "Too many people wait for an avatar. Please try again later."


class WaitingLine:
    """The line of all processes; at most `most` wait."""

    def __init__(self, database: Database, *, most: int, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._most = most
        self._now = now

    async def stand(self, user_id: int) -> int:
        """Take a place in the line, or keep the one there is; return it, 1 for the first.

        Raises NoFreePlace when the line is full.
        """
        now = self._now()
        position = await self._database.run(lambda session: _stood(session, user_id, now, self._most))
        if position is None:
            raise NoFreePlace(FULL, retry_after_seconds=60)
        return position

    async def ahead(self, user_id: int) -> int:
        """Return how many are before the user, who may have no ticket."""
        now = self._now()
        return await self._database.run(lambda session: ahead_of(session, user_id, now))

    async def leave(self, user_id: int) -> None:
        """Give up a place, if there is one."""
        leaving = delete(AvatarTicket).where(AvatarTicket.user_id == user_id)
        await self._database.run(lambda session: session.execute(leaving).close())


def ahead_of(session: Session, user_id: int, now: datetime) -> int:
    """Return how many live tickets are before the user's own, or in all without one."""
    own = session.scalar(
        select(AvatarTicket.id).where(AvatarTicket.user_id == user_id, AvatarTicket.until > now)
    )
    query = select(func.count()).where(AvatarTicket.until > now, AvatarTicket.user_id != user_id)
    if own is not None:
        query = query.where(AvatarTicket.id < own)
    return session.scalar(query) or 0


def _stood(session: Session, user_id: int, now: datetime, most: int) -> int | None:
    session.execute(delete(AvatarTicket).where(AvatarTicket.until <= now))
    until = now + timedelta(seconds=TICKET_SECONDS)
    own = session.scalar(select(AvatarTicket.id).where(AvatarTicket.user_id == user_id))
    if own is None and (session.scalar(select(func.count(AvatarTicket.id))) or 0) >= most:
        return None
    insert: Any = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    statement = insert(AvatarTicket).values(user_id=user_id, until=until)
    session.execute(statement.on_conflict_do_update(index_elements=["user_id"], set_={"until": until}))
    return ahead_of(session, user_id, now) + 1
