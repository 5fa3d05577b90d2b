"""Files that people uploaded: on disk, here, and in the index of the retrieval service."""

from datetime import datetime

from sqlalchemy import BigInteger, Index, String, case, text, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from backend.models.base import Base, UtcDateTime, utc_now

# On the way in: arriving (its room is reserved) -> stored -> indexing -> indexed, or failed; kept is never
# indexed, as a picture. On the way out: deleting, until it is gone from index and disk; the row goes last.
STATES = ("arriving", "stored", "indexing", "indexed", "failed", "kept", "deleting")
# Somebody is at work on these until `due_at`, and sees the end through.
HELD = ("arriving", "indexing")

PRIVATE, PUBLIC = text("NOT public"), text("public")


class StoredFile(Base):
    """One file; `name` is what people see and delete by, `path` where it lies below the folder of files.

    `owner_id` is no foreign key: disk and index have to be cleared after their owner is gone. `public`
    files were added by tutors for everybody. `due_at` is when the next work on it may begin, None when there
    is none; `attempts` counts such works. `in_index` says that the index may hold something of it.
    """

    __tablename__ = "stored_file"
    __table_args__ = (
        # The index knows documents by name alone: one name, one file, for a person and for everybody.
        Index(
            "uq_stored_file_private_name",
            "owner_id",
            "name",
            unique=True,
            sqlite_where=PRIVATE,
            postgresql_where=PRIVATE,
        ),
        Index(
            "uq_stored_file_public_name", "name", unique=True, sqlite_where=PUBLIC, postgresql_where=PUBLIC
        ),
        Index("ix_stored_file_owner_id", "owner_id"),
        # Links in old messages name a file by its id: no other file may ever bear it.
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int]
    public: Mapped[bool] = mapped_column(default=False)
    name: Mapped[str] = mapped_column(String(200))
    path: Mapped[str] = mapped_column(String(100), unique=True)
    kind: Mapped[str] = mapped_column(String(20))
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64), default="")
    state: Mapped[str] = mapped_column(String(20))
    due_at: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)
    attempts: Mapped[int] = mapped_column(default=0)
    in_index: Mapped[bool] = mapped_column(default=False)
    problem: Mapped[str | None] = mapped_column(String(200))
    session_id: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, onupdate=utc_now)

    def __repr__(self) -> str:
        return f"<StoredFile {self.id} of user {self.owner_id}, {self.size} bytes, {self.state}>"


def abandon(session: Session, owner_id: int) -> None:
    """Let go of a user's private files, in the transaction that removes the user: disk and index follow."""
    private = StoredFile.owner_id == owner_id, StoredFile.public.is_(False)
    due = case((StoredFile.state.in_(HELD), StoredFile.due_at), else_=utc_now())
    session.execute(update(StoredFile).where(*private).values(state="deleting", due_at=due))
