"""Codes sent by mail that prove that somebody reads a mailbox."""

from datetime import datetime
from typing import Literal, get_args

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from backend.models.base import Base, UtcDateTime
from backend.models.user import EMAIL_CHARACTERS

Purpose = Literal["register", "update_password", "delete_account"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


class VerificationCode(Base):
    """The latest code for one purpose; only a keyed hash of it is stored."""

    __tablename__ = "verification_code"

    email: Mapped[str] = mapped_column(String(EMAIL_CHARACTERS), primary_key=True)
    purpose: Mapped[Purpose] = mapped_column(String(20), primary_key=True)
    code_hash: Mapped[str] = mapped_column(String(64))
    sent_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    attempts: Mapped[int] = mapped_column(default=0)
    # What the code was made of, until its mail is sent; worth nothing to whoever has no key.
    seed: Mapped[str | None] = mapped_column(String(32))
    # Till then the mail is in the hands of a process, which says so again; afterwards anybody may send it.
    held_until: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)

    def __repr__(self) -> str:
        return f"<VerificationCode {self.purpose} after {self.attempts} attempts>"
