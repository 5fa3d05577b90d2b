"""Which avatar instance each user is on, and every other connection that the manager may count for us."""

from datetime import datetime

from sqlalchemy import BigInteger, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from backend.models.base import Base, UtcDateTime, utc_now

# starting -> ready -> leaving; unsure: a call ended without saying whether the manager counts it or not.
STARTING, READY, LEAVING, UNSURE = "starting", "ready", "leaving", "unsure"

_IS_STARTING, _IS_READY = text("state = 'starting'"), text("state = 'ready'")


class AvatarSession(Base):
    """One connection at an instance: written before the manager is asked for it, gone after it was let go of.

    `user_id` is no foreign key: a connection has to be let go of after its user is gone, too. `holder` is at
    work on the row until `due_at`; for an unsure one `due_at` is when it must have turned out. `wanted` is
    false for a start that was called off under way, `counted` for a connection that a manager has forgotten.
    `used_at` is the user's last use, `kept_at` the last known start call of the instance.
    """

    __tablename__ = "avatar_session"
    __table_args__ = (
        # One seat a user, and one on the way to the next.
        Index(
            "uq_avatar_session_starting",
            "user_id",
            unique=True,
            sqlite_where=_IS_STARTING,
            postgresql_where=_IS_STARTING,
        ),
        Index(
            "uq_avatar_session_ready",
            "user_id",
            unique=True,
            sqlite_where=_IS_READY,
            postgresql_where=_IS_READY,
        ),
        Index("ix_avatar_session_user_id", "user_id"),
        # Processes remember rows by their ids for some seconds: none may come again.
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int]
    avatar: Mapped[str] = mapped_column(String(64))
    instance_id: Mapped[str | None] = mapped_column(String(160))
    port: Mapped[int | None]
    state: Mapped[str] = mapped_column(String(10))
    wanted: Mapped[bool] = mapped_column(default=True)
    counted: Mapped[bool] = mapped_column(default=True)
    holder: Mapped[str | None] = mapped_column(String(32))
    due_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    # The number that the instance gave the user's peer connection in its answer to the offer; no other may be
    # spoken to. NULL until there was one.
    peer_session: Mapped[int | None] = mapped_column(BigInteger)
    started_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    used_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    kept_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)

    def __repr__(self) -> str:
        place = f"{self.instance_id} port {self.port}"
        return f"<AvatarSession {self.id} user {self.user_id} {self.state} on {place}>"
