"""The line in front of avatars that have no free place."""

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from backend.models.base import Base, UtcDateTime


class AvatarTicket(Base):
    """A user's place in the line, by `id`; void when the user has not asked again by `until`."""

    __tablename__ = "avatar_ticket"
    # A number that comes again would let somebody in before those who were there first.
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012 (SQLAlchemy reads it once)

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(unique=True)
    until: Mapped[datetime] = mapped_column(UtcDateTime)

    def __repr__(self) -> str:
        return f"<AvatarTicket {self.id} of user {self.user_id}>"
