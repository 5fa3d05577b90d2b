"""Files that people uploaded: on disk, here, and in the index of the retrieval service."""

from datetime import datetime

from sqlalchemy import BigInteger, Index, String, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from backend.models.base import Base, UtcDateTime, utc_now

# On the way to the index: stored -> indexing -> indexed, or failed; kept (never indexed, as a picture).
# On the way out: deleting, until it is gone from index and disk; then the row goes, too.
STATES = ("stored", "indexing", "indexed", "failed", "kept", "deleting")


class StoredFile(Base):
    """One file; `name` is what people see and delete by, `path` where it lies below the folder of files.

    `owner_id` is no foreign key: disk and index have to be cleared after their owner is gone. `public`
    files were added by tutors for everybody.
    """

    __tablename__ = "stored_file"
    __table_args__ = (Index("ix_stored_file_owner_id_public_name", "owner_id", "public", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int]
    public: Mapped[bool] = mapped_column(default=False)
    name: Mapped[str] = mapped_column(String(200))
    path: Mapped[str] = mapped_column(String(100), unique=True)
    kind: Mapped[str] = mapped_column(String(20))
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(20), index=True)
    problem: Mapped[str | None] = mapped_column(String(200))
    session_id: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, onupdate=utc_now)

    def __repr__(self) -> str:
        return f"<StoredFile {self.id} of user {self.owner_id}, {self.size} bytes, {self.state}>"


def abandon(session: Session, owner_id: int) -> None:
    """Let go of a user's private files, in the transaction that removes the user: disk and index follow."""
    private = StoredFile.owner_id == owner_id, StoredFile.public.is_(False)
    session.execute(update(StoredFile).where(*private).values(state="deleting"))
