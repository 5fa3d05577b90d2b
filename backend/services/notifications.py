"""What users are told in the bell of the frontend, by what really happened to them."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from backend.errors import GatewayError, NotFound
from backend.models import Notification, User
from backend.services.database import Database

log = logging.getLogger("gateway.notifications")

Kind = Literal["info", "success", "warning", "error"]

MOST_PER_USER = 200  # nobody reads further back; older ones go
TITLE_CHARACTERS = 120
TELLING_SECONDS = 2.0  # what waits for this must not wait long: it is done already


def notify(session: Session, user_id: int, title: str, message: str, kind: Kind = "info") -> None:
    """Tell a user something, in the transaction that makes it true; nothing for a user who is gone."""
    # On PostgreSQL those who tell the same user something take turns; on SQLite all writers do.
    mine = select(User.id).where(User.id == user_id).with_for_update(key_share=True)
    if session.scalar(mine) is None:
        return
    title = title[:TITLE_CHARACTERS]
    session.add(Notification(user_id=user_id, title=title, message=message, type=kind))
    session.flush()
    newest = select(Notification.id).where(Notification.user_id == user_id).order_by(Notification.id.desc())
    eldest_kept = newest.offset(MOST_PER_USER - 1).limit(1).scalar_subquery()
    session.execute(
        delete(Notification).where(Notification.user_id == user_id, Notification.id < eldest_kept),
        execution_options={"synchronize_session": False},
    )


@dataclass(frozen=True, slots=True)
class Page:
    """Some notifications, newest first; `total` of the kind asked for, `unread_count` of all."""

    notifications: list[Notification]
    total: int
    unread_count: int


class Notifications:
    """Each user's own ones."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, user_id: int, *, is_read: bool | None, offset: int, limit: int) -> Page:
        """Return the read ones, the unread ones, or with None both."""

        def work(session: Session) -> Page:
            mine = Notification.user_id == user_id
            wanted = [mine] if is_read is None else [mine, Notification.is_read.is_(is_read)]
            rows = select(Notification).where(*wanted).order_by(Notification.id.desc())
            count = select(func.count()).select_from(Notification)
            return Page(
                list(session.scalars(rows.offset(offset).limit(limit))),
                session.execute(count.where(*wanted)).scalar_one(),
                session.execute(count.where(mine, Notification.is_read.is_(False))).scalar_one(),
            )

        return await self._database.run(work)

    async def mark_read(self, user_id: int, notification_id: int) -> None:
        """Mark an own one as read, again if need be. Raises NotFound, also for another user's."""
        own = Notification.id == notification_id, Notification.user_id == user_id
        read = update(Notification).where(*own).values(is_read=True).returning(Notification.id)
        if await self._database.run(lambda session: session.execute(read).scalar()) is None:
            raise NotFound("There is no such notification.")

    async def tell(self, user_id: int, title: str, message: str, kind: Kind = "info") -> None:
        """Tell a user of something that stands whether or not this can be stored; never fails for that."""
        try:
            async with asyncio.timeout(TELLING_SECONDS):
                await self._database.run(lambda session: notify(session, user_id, title, message, kind))
        except (TimeoutError, GatewayError) as error:
            log.warning("a notification was not stored: %r", error)
        except Exception as error:  # a mistake here must not undo what it would have told of
            log.error("a notification was not stored", exc_info=error)

    async def avatar_ready(self, user_id: int, avatar: str) -> None:
        await self.tell(user_id, "Avatar ready", f"{avatar} was started and is ready to talk.", "success")
