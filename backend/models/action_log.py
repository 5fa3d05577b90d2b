"""Who changed what about whom."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from backend.models.base import Base, UtcDateTime, utc_now
from backend.models.user import EMAIL_CHARACTERS


class ActionLog(Base):
    """One change of an account; `details` maps a field to its old and new value.

    E-mails instead of references: the row outlives both people.
    """

    __tablename__ = "user_action_log"

    id: Mapped[int] = mapped_column(primary_key=True)
    operator_email: Mapped[str] = mapped_column(String(EMAIL_CHARACTERS), index=True)
    role: Mapped[str] = mapped_column(String(20))
    action: Mapped[str] = mapped_column(String(40), index=True)
    target_user_id: Mapped[int | None]
    target_user_email: Mapped[str | None] = mapped_column(String(EMAIL_CHARACTERS))
    reason: Mapped[str | None] = mapped_column(Text)
    details: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    timestamp: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)

    def __repr__(self) -> str:
        return f"<ActionLog {self.id} {self.action} of user {self.target_user_id}>"
