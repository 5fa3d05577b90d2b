"""What people say of themselves."""

from datetime import datetime

from sqlalchemy import ForeignKey, String, Text, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, Session, mapped_column

from backend.models.base import Base, UtcDateTime, utc_now
from backend.models.user import User

NAME_CHARACTERS = 50
PHONE_CHARACTERS = 20
URL_CHARACTERS = 200


class Profile(Base):
    """One row a user, made with the account; `avatar_url` is a path of this gateway or NULL."""

    __tablename__ = "user_profile"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), unique=True)
    username: Mapped[str | None] = mapped_column(String(NAME_CHARACTERS))
    full_name: Mapped[str | None] = mapped_column(String(NAME_CHARACTERS))
    bio: Mapped[str | None] = mapped_column(Text)
    avatar_url: Mapped[str | None] = mapped_column(String(URL_CHARACTERS))
    phone: Mapped[str | None] = mapped_column(String(PHONE_CHARACTERS))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, onupdate=utc_now)

    def shown_name(self, email: str) -> str:
        """The user name, or what stands in for one that was never chosen."""
        return self.username or email.partition("@")[0][:NAME_CHARACTERS]

    def __repr__(self) -> str:
        return f"<Profile of user {self.user_id}>"


def locked(session: Session, user_id: int) -> Profile | None:
    """Return a user's profile for a change, made when missing; None when there is no such user.

    Nobody else changes it before this transaction ends.
    """
    mine = Profile.user_id == user_id
    # Locks the row, or all of SQLite, which knows no FOR UPDATE: what is read next is what is replaced.
    touch = update(Profile).where(mine).values(user_id=Profile.user_id, updated_at=Profile.updated_at)
    session.execute(touch)
    found = session.scalar(select(Profile).where(mine))
    if found is None and session.get(User, user_id) is not None:
        insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
        session.execute(insert(Profile).values(user_id=user_id).on_conflict_do_nothing())
        found = session.scalar(select(Profile).where(mine).with_for_update())
    return found
