"""Conversations with the chat model, and what was said in them."""

import uuid
from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from backend.models.base import Base, UtcDateTime, utc_now

TITLE_CHARACTERS = 120


def _new_key() -> str:
    return uuid.uuid4().hex


class Chat(Base):
    """One conversation; its table is called session, as it was before there were other sessions."""

    __tablename__ = "session"
    __table_args__ = (
        Index("ix_session_user_id_updated_at", "user_id", "updated_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
    title: Mapped[str | None] = mapped_column(String(TITLE_CHARACTERS))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    is_favorite: Mapped[bool] = mapped_column(default=False)
    message_count: Mapped[int] = mapped_column(default=0)
    # The model remembers conversations by this name alone: a number would meet strangers' memories there as
    # soon as another database counts from 1 again.
    memory_key: Mapped[str] = mapped_column(String(32), default=_new_key)

    def __repr__(self) -> str:
        return f"<Chat {self.id} of user {self.user_id}, {self.message_count} messages>"


class Message(Base):
    """One thing said, by `user` or `assistant`; in order of their ids."""

    __tablename__ = "message"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012 (SQLAlchemy reads it once)

    id: Mapped[int] = mapped_column(primary_key=True)
    session_id: Mapped[int] = mapped_column(ForeignKey("session.id", ondelete="CASCADE"), index=True)
    role: Mapped[str] = mapped_column(String(20))
    content: Mapped[str | None] = mapped_column(Text)
    file_type: Mapped[str | None] = mapped_column(String(20))
    file_path: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)

    def __repr__(self) -> str:
        return f"<Message {self.id} by {self.role} in chat {self.session_id}>"
