"""What people say of themselves."""

from datetime import datetime

from sqlalchemy import ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from backend.models.base import Base, UtcDateTime, utc_now

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

    def __repr__(self) -> str:
        return f"<Profile of user {self.user_id}>"
