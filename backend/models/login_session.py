"""The one live sign-in of each user, and the statements that read and change it."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, ForeignKey, Select, String, case, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, Session, mapped_column

from backend.models.base import Base, UtcDateTime
from backend.models.user import User


class LoginSession(Base):
    """A new sign-in replaces `jti`, so the earlier token ends; NULL says that the user signed out.

    A signed-out row stays: the change must reach the processes that only ask for what changed.
    """

    __tablename__ = "login_session"

    user_id: Mapped[int] = mapped_column(
        ForeignKey("user.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    jti: Mapped[str | None] = mapped_column(String(32))
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # Unix microseconds, always greater than the row's last one: whatever the clocks of several processes
    # say, the greater one is the newer state.
    changed_at: Mapped[int] = mapped_column(BigInteger, index=True)

    def __repr__(self) -> str:
        state = "signed out" if self.jti is None else f"until {self.expires_at:%Y-%m-%dT%H:%M:%SZ}"
        return f"<LoginSession user {self.user_id} {state}>"


Found = Select[int, int, str | None, datetime, str, str, str]

# user_id, changed_at, jti, expires_at, email, role, status
SESSIONS: Found = select(
    LoginSession.user_id,
    LoginSession.changed_at,
    LoginSession.jti,
    LoginSession.expires_at,
    User.email,
    User.role,
    User.status,
).join(User, User.id == LoginSession.user_id)


def of_user(user_id: int) -> Found:
    return SESSIONS.where(LoginSession.user_id == user_id)


def unexpired(now: datetime) -> Found:
    return SESSIONS.where(LoginSession.expires_at > now)


def changed(since: datetime) -> tuple[Found, Found]:
    """Sessions that changed and sessions whose user did: an OR over both tables would read them whole."""
    since_us = int(since.timestamp() * 1_000_000)
    return SESSIONS.where(LoginSession.changed_at >= since_us), SESSIONS.where(User.changed_at >= since)


def begin(session: Session, user_id: int, jti: str, expires_at: datetime, now_us: int) -> int:
    """Make `jti` the user's live sign-in; returns the new `changed_at`."""
    values = {"jti": jti, "expires_at": expires_at}
    insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    statement: Any = insert(LoginSession).values(user_id=user_id, changed_at=now_us, **values)
    replacing = statement.on_conflict_do_update(
        index_elements=[LoginSession.user_id], set_=values | {"changed_at": _later(now_us)}
    )
    return int(session.execute(replacing.returning(LoginSession.changed_at)).scalar_one())


def end(session: Session, user_id: int, jti: str | None, now_us: int) -> int | None:
    """Sign the user out, with `jti` only if that is the live one; returns the new `changed_at` or None."""
    live = LoginSession.jti.is_not(None) if jti is None else LoginSession.jti == jti
    statement = update(LoginSession).where(LoginSession.user_id == user_id, live)
    ending = statement.values(jti=None, changed_at=_later(now_us)).returning(LoginSession.changed_at)
    return session.execute(ending).scalar_one_or_none()


def _later(now_us: int) -> ColumnElement[int]:
    return case((LoginSession.changed_at < now_us, now_us), else_=LoginSession.changed_at + 1)
