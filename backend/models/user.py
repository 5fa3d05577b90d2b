"""People who may sign in."""

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from backend.models.base import Base, UtcDateTime, utc_now

EMAIL_CHARACTERS = 80
ROLES = ("student", "tutor")
BANNED = "banned"
STATUSES = ("active", "inactive", BANNED)


class User(Base):
    """`status` is active, inactive (not seen for a while, may sign in) or banned (may not)."""

    __tablename__ = "user"
    # The id of a deleted user is never given to another one: tokens and logs name people by it.
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012 (SQLAlchemy reads it once)

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(String(EMAIL_CHARACTERS), unique=True)
    password_hash: Mapped[str] = mapped_column(String(255))
    role: Mapped[str] = mapped_column(String(20), default="student")
    status: Mapped[str] = mapped_column(String(20), default="active")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    # Moves with every edit, so that each process learns of a new role or a ban within one poll.
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, onupdate=utc_now, index=True)
    last_login: Mapped[datetime | None] = mapped_column(UtcDateTime)

    def __repr__(self) -> str:
        return f"<User {self.id} {self.email} {self.role} {self.status}>"
