"""The one live sign-in of each user, and the statements that read and change it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, String, case, literal, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, Session, mapped_column

from backend.models.base import Base, UtcDateTime
from backend.models.user import BANNED, User

MOST_IN_ONE_STATEMENT = 200  # each of them is looked for among the others


class LoginSession(Base):
    """A new sign-in replaces `jti`, so the earlier token ends; NULL says that the user signed out.

    A signed-out row stays, also when its user is deleted: the change must reach the processes that only ask
    for what changed. So `user_id` is no foreign key, and a row whose user is gone opens nothing.
    """

    __tablename__ = "login_session"

    user_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    jti: Mapped[str | None] = mapped_column(String(32))
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # Moves on while the session is used.
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # Unix microseconds, always greater than the row's last one: whatever the clocks of several processes
    # say, the greater one is the newer state.
    changed_at: Mapped[int] = mapped_column(BigInteger, index=True)

    def __repr__(self) -> str:
        state = "signed out" if self.jti is None else f"until {self.expires_at:%Y-%m-%dT%H:%M:%SZ}"
        return f"<LoginSession user {self.user_id} {state}>"


Found = Select[int, int, str | None, datetime, datetime, str | None, str | None, str | None]

# user_id, changed_at, jti, started_at, expires_at, email, role, status; the last three NULL without a user
SESSIONS: Found = select(
    LoginSession.user_id,
    LoginSession.changed_at,
    LoginSession.jti,
    LoginSession.started_at,
    LoginSession.expires_at,
    User.email,
    User.role,
    User.status,
).join(User, User.id == LoginSession.user_id, isouter=True)


def of_user(user_id: int) -> Found:
    return SESSIONS.where(LoginSession.user_id == user_id)


def unexpired(now: datetime) -> Found:
    return SESSIONS.where(LoginSession.expires_at > now)


def changed(since: datetime) -> tuple[Found, Found]:
    """Sessions that changed and sessions whose user did: an OR over both tables would read them whole."""
    since_us = int(since.timestamp() * 1_000_000)
    return SESSIONS.where(LoginSession.changed_at >= since_us), SESSIONS.where(User.changed_at >= since)


def begin(
    session: Session,
    user_id: int,
    jti: str,
    expires_at: datetime,
    now_us: int,
    password_hash: str | None = None,
) -> int | None:
    """Make `jti` the user's live sign-in; returns the new `changed_at`, None when there is no such user.

    With `password_hash` there is none, either, when the user's is another one by now.
    """
    checked = [] if password_hash is None else [User.password_hash == password_hash]
    started_at = datetime.fromtimestamp(now_us / 1_000_000, UTC)
    values: dict[str, Any] = {"jti": jti, "started_at": started_at, "expires_at": expires_at}
    user = select(
        User.id,
        literal(jti, String),
        literal(started_at, UtcDateTime),
        literal(expires_at, UtcDateTime),
        literal(now_us, BigInteger),
    ).where(User.id == user_id, User.status != BANNED, *checked)
    insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    statement: Any = insert(LoginSession).from_select(
        ["user_id", "jti", "started_at", "expires_at", "changed_at"],
        # Whoever deletes the user or changes the password now waits, and then finds this row to end it.
        user.with_for_update(read=True),
    )
    replacing = statement.on_conflict_do_update(
        index_elements=[LoginSession.user_id], set_=values | {"changed_at": _later(now_us)}
    )
    found: int | None = session.execute(replacing.returning(LoginSession.changed_at)).scalar_one_or_none()
    return found


def end(session: Session, user_id: int, jti: str | None, now_us: int) -> int | None:
    """Sign the user out, with `jti` only if that is the live one; returns the new `changed_at` or None."""
    live = LoginSession.jti.is_not(None) if jti is None else LoginSession.jti == jti
    statement = update(LoginSession).where(LoginSession.user_id == user_id, live)
    ending = statement.values(jti=None, changed_at=_later(now_us)).returning(LoginSession.changed_at)
    return session.execute(ending).scalar_one_or_none()


def renew(session: Session, user_id: int, jti: str, until: datetime, now_us: int) -> int | None:
    """Let a session live till `until` and tell the other processes; None when `jti` is not the live one."""
    statement = update(LoginSession).where(LoginSession.user_id == user_id, LoginSession.jti == jti)
    later = case((LoginSession.expires_at < until, until), else_=LoginSession.expires_at)
    renewing = statement.values(expires_at=later, changed_at=_later(now_us))
    return session.execute(renewing.returning(LoginSession.changed_at)).scalar_one_or_none()


def prolong(session: Session, until: Mapping[int, datetime]) -> None:
    """Let many users' sessions live longer, each till its own time; none ever gets shorter.

    Nothing but the expiry moves, and nobody needs to know of it at once: `changed_at` stays.
    """
    users = list(until)
    for start in range(0, len(users), MOST_IN_ONE_STATEMENT):
        some = users[start : start + MOST_IN_ONE_STATEMENT]
        ends = {user_id: literal(until[user_id], UtcDateTime) for user_id in some}
        moment = case(ends, value=LoginSession.user_id)
        live = LoginSession.user_id.in_(some), LoginSession.jti.is_not(None), LoginSession.expires_at < moment
        session.execute(
            update(LoginSession).where(*live).values(expires_at=moment),
            execution_options={"synchronize_session": False},
        )


def _later(now_us: int) -> ColumnElement[int]:
    return case((LoginSession.changed_at < now_us, now_us), else_=LoginSession.changed_at + 1)
