"""Who uses avatars, and who does not any more: what the table of sessions says of its users."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, exists, func, or_, select, update
from sqlalchemy.orm import Session

from backend.models import AvatarSession, LoginSession, User
from backend.models.avatar_session import READY
from backend.models.user import BANNED
from backend.services.session_store import NOBODY

# Uses prolong a sign-in in memory first and are written a minute later.
LATE = timedelta(seconds=120)


def use(last: dict[int, datetime]) -> Callable[[Session], None]:
    """Note when users used their avatars last."""

    def work(session: Session) -> None:
        for user_id, moment in last.items():
            older = AvatarSession.user_id == user_id, AvatarSession.used_at < moment
            session.execute(
                update(AvatarSession).where(*older).values(used_at=moment),
                execution_options={"synchronize_session": False},
            )

    return work


def keep(instance_id: str, now: datetime) -> Callable[[Session], None]:
    """Note that the manager was just told that an instance is in use."""
    keeping = update(AvatarSession).where(AvatarSession.instance_id == instance_id).values(kept_at=now)
    return lambda session: session.execute(keeping).close()


def signed_out(now: datetime) -> ColumnElement[bool]:
    """Sessions of users without a live sign-in, and of those who are banned or gone."""
    live = LoginSession.jti.is_not(None), LoginSession.expires_at > now - LATE
    mine = LoginSession.user_id == AvatarSession.user_id, User.id == AvatarSession.user_id
    return (AvatarSession.user_id != NOBODY) & ~exists().where(*mine, *live, User.status != BANNED)


def unused(now: datetime, offer_seconds: float, idle_seconds: float) -> ColumnElement[bool]:
    """Ready sessions whose user made no offer, or nothing at all, for so long."""
    no_offer = AvatarSession.peer_session.is_(None) & (
        AvatarSession.used_at < now - timedelta(seconds=offer_seconds)
    )
    idle = AvatarSession.used_at < now - timedelta(seconds=idle_seconds)
    return (AvatarSession.state == READY) & or_(no_offer, idle)


def counts(session: Session) -> dict[int, int]:
    """Return how many users are at each port."""
    query = select(AvatarSession.port, func.count()).where(AvatarSession.state == READY)
    found: Any = session.execute(query.group_by(AvatarSession.port))
    return {int(port): int(count) for port, count in found if port is not None}
