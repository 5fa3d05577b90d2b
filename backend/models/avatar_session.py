"""Which avatar instance each user is on."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from backend.models.base import Base, UtcDateTime, utc_now


class AvatarSession(Base):
    """The instance that a user's last start led to; one row a user, gone when the user lets go of it."""

    __tablename__ = "avatar_session"

    user_id: Mapped[int] = mapped_column(
        ForeignKey("user.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    avatar: Mapped[str] = mapped_column(String(64))
    instance_id: Mapped[str] = mapped_column(String(160))
    port: Mapped[int]
    # The number that the instance gave the user's peer connection in its answer to the offer; no other may be
    # spoken to. NULL until there was one.
    peer_session: Mapped[int | None] = mapped_column(BigInteger)
    started_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)

    def __repr__(self) -> str:
        return f"<AvatarSession user {self.user_id} on {self.instance_id} port {self.port}>"
