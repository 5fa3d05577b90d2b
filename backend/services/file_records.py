"""Rows of uploaded files: reserving room, accepting, claiming work, settling it. Each one short transaction.

Whoever changes a row first writes: SQLite then takes its lock before it reads, and PostgreSQL the row's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from backend.errors import Conflict, NotAuthenticated, TooLarge
from backend.models import StoredFile, User
from backend.models.stored_file import HELD
from backend.services.file_names import MOST_NAMESAKES, beginning_of_all, numbered
from backend.services.file_store import Written
from backend.services.library import PUBLIC, Shelf
from backend.services.notifications import Kind as NoticeKind
from backend.services.notifications import notify

MEGABYTE = 1 << 20
# A list stays short enough to be shown, and a name is found, however small files are.
MOST_FILES = 2000

WORKING_IN, WORKING_OUT = ("stored", "indexing"), ("arriving", "deleting")


@dataclass(frozen=True, slots=True, repr=False)
class Record:
    """A stored file as it was when it was read."""

    id: int
    owner_id: int
    public: bool
    name: str
    path: str
    kind: str
    size: int
    state: str
    due_at: datetime | None
    attempts: int
    in_index: bool
    session_id: int | None
    created_at: datetime

    @property
    def shelf(self) -> Shelf:
        return PUBLIC if self.public else Shelf(self.owner_id)

    @property
    def address(self) -> str:
        """Where its owner can load it."""
        return f"/api/files/{self.id}"

    def __repr__(self) -> str:
        """Logs have no need of names that people gave."""
        return f"<Record {self.id} of user {self.owner_id}, {self.size} bytes, {self.state}>"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file that asks for room: at most `size` bytes of it."""

    owner_id: int
    public: bool
    name: str
    path: str
    kind: str
    size: int


@dataclass(frozen=True, slots=True)
class Notice:
    title: str
    message: str
    kind: NoticeKind = "info"


def reserve(wanted: Wanted, quota: int, due_at: datetime) -> Callable[[Session], Record]:
    """Make a row with as much of the wanted room as the quota has left, under a name of its own.

    Raises NotAuthenticated when the owner is gone, TooLarge without room.
    """

    def work(session: Session) -> Record:
        in_turn(session, wanted.owner_id)  # or two at once could both take the last room
        sums = select(func.count(), func.coalesce(func.sum(StoredFile.size), 0))
        count, used = session.execute(sums.where(StoredFile.owner_id == wanted.owner_id)).one()
        if count >= MOST_FILES:
            raise TooLarge(f"You have {MOST_FILES} files, and there is room for no more. Please remove some.")
        if int(used) >= quota:
            raise over_quota(quota)
        row = StoredFile(
            owner_id=wanted.owner_id,
            public=wanted.public,
            name=_own_name(session, wanted),
            path=wanted.path,
            kind=wanted.kind,
            size=min(wanted.size, quota - int(used)),
            state="arriving",
            due_at=due_at,
        )
        session.add(row)
        session.flush()
        return _record(row)

    return work


def in_turn(session: Session, owner_id: int) -> None:
    """Wait until no other transaction is at this point for the same person. Raises NotAuthenticated."""
    # An update that changes nothing locks on both databases; SQLite knows no `FOR UPDATE`.
    own = update(User).where(User.id == owner_id).values({User.changed_at: User.changed_at})
    if session.scalar(own.returning(User.id)) is None:
        raise NotAuthenticated


def over_quota(quota: int) -> TooLarge:
    return TooLarge(
        f"Your files may take {quota / MEGABYTE:g} MB together, and this one does not fit any more. "
        "Please remove some first."
    )


def _own_name(session: Session, wanted: Wanted) -> str:
    shelf = StoredFile.public.is_(True) if wanted.public else _private(wanted.owner_id)
    like = StoredFile.name.startswith(beginning_of_all(wanted.name), autoescape=True)
    taken = set(session.scalars(select(StoredFile.name).where(shelf, like)))
    names = (numbered(wanted.name, number) for number in range(1, MOST_NAMESAKES + 1))
    own = next((name for name in names if name not in taken), None)
    if own is None:
        raise Conflict("There are too many files by this name. Please choose another one.")
    return own


def accept(path: str, written: Written, state: str, due_at: datetime | None) -> Callable[[Session], Record]:
    """Say that a reserved file is there. Raises NotAuthenticated when its owner went meanwhile."""

    def work(session: Session) -> Record:
        mine = StoredFile.path == path, StoredFile.state == "arriving"
        values = {"state": state, "size": written.size, "sha256": written.sha256, "due_at": due_at}
        row = session.scalars(update(StoredFile).where(*mine).values(values).returning(StoredFile)).first()
        if row is None:
            raise NotAuthenticated
        return _record(row)

    return work


def into_chat(record: Record, session_id: int) -> Callable[[Session], Record]:
    """Say which conversation a file was attached to."""

    def work(session: Session) -> Record:
        session.execute(update(StoredFile).where(StoredFile.id == record.id).values(session_id=session_id))
        return replace(record, session_id=session_id)

    return work


def give_up(path: str) -> Callable[[Session], bool]:
    """Remove the row of a file unless it was accepted; tell whether the file may go, too."""

    def work(session: Session) -> bool:
        session.execute(delete(StoredFile).where(StoredFile.path == path, StoredFile.sha256 == ""))
        return session.scalar(select(StoredFile.id).where(StoredFile.path == path)) is None

    return work


def claim(
    states: Sequence[str], now: datetime, lease: timedelta, file_id: int | None = None
) -> Callable[[Session], Record | None]:
    """Take the next row in one of the states whose work is due, for `lease`; nobody else gets it meanwhile.

    With an id, take that one, due or not: somebody waits for it.
    """
    due = select(StoredFile.id).where(StoredFile.state.in_(states))
    if file_id is None:
        due = due.where(StoredFile.due_at <= now).order_by(StoredFile.due_at)
    else:
        due = due.where(StoredFile.id == file_id)
    # SQLite has no such lock, and needs none: a writer is alone there.
    chosen = due.limit(1).with_for_update(skip_locked=True).scalar_subquery()
    values: dict[str, Any] = {"due_at": now + lease, "attempts": StoredFile.attempts + 1}
    if "stored" in states:
        # Said before anything is sent: should this process die, what it sent will be looked for.
        values |= {"state": "indexing", "in_index": True}
    take = update(StoredFile).where(StoredFile.id == chosen).values(values).returning(StoredFile)

    def work(session: Session) -> Record | None:
        row = session.scalars(take).first()
        return None if row is None else _record(row)

    return work


def settle(record: Record, notice: Notice | None = None, **values: Any) -> Callable[[Session], bool]:
    """Write down how work on a claimed row ended; False when it is not this work's row any more."""
    mine = StoredFile.id == record.id, StoredFile.state == record.state
    still = *mine, StoredFile.attempts == record.attempts
    change = update(StoredFile).where(*still).values(values).returning(StoredFile.id)

    def work(session: Session) -> bool:
        if session.scalar(change) is None:
            return False
        _tell(session, record.owner_id, notice)
        return True

    return work


def drop(record: Record, notice: Notice | None = None) -> Callable[[Session], None]:
    """Remove the row of a file that is gone from index and disk."""
    gone = delete(StoredFile).where(StoredFile.id == record.id, StoredFile.state.in_(WORKING_OUT))

    def work(session: Session) -> None:
        session.execute(gone)
        _tell(session, record.owner_id, notice)

    return work


def _tell(session: Session, user_id: int, notice: Notice | None) -> None:
    if notice is not None and session.get(User, user_id) is not None:
        notify(session, user_id, notice.title, notice.message, notice.kind)


def mark_orphans(now: datetime) -> Callable[[Session], int]:
    """Begin to remove private files whose owner is gone; tell how many."""
    ownerless = StoredFile.owner_id.not_in(select(User.id)), StoredFile.public.is_(False)
    quiet = StoredFile.state.not_in((*HELD, "deleting"))
    mark = update(StoredFile).where(*ownerless, quiet).values(state="deleting", due_at=now)
    marked = mark.returning(StoredFile.id)
    return lambda session: len(session.scalars(marked).all())


def of_shelf(shelf: Shelf) -> Callable[[Session], list[Record]]:
    """Return every accepted file of a person, or of everybody, also those on their way out; newest first."""
    which = StoredFile.public.is_(True) if shelf.user_id is None else _private(shelf.user_id)
    found = select(StoredFile).where(which, StoredFile.sha256 != "").order_by(StoredFile.id.desc())
    return lambda session: [_record(row) for row in session.scalars(found)]


def by_id(file_id: int) -> Callable[[Session], Record | None]:
    def work(session: Session) -> Record | None:
        row = session.get(StoredFile, file_id)
        return None if row is None or not row.sha256 else _record(row)

    return work


def _private(owner_id: int) -> Any:
    return (StoredFile.owner_id == owner_id) & StoredFile.public.is_(False)


def _record(row: StoredFile) -> Record:
    return Record(
        id=row.id,
        owner_id=row.owner_id,
        public=row.public,
        name=row.name,
        path=row.path,
        kind=row.kind,
        size=row.size,
        state=row.state,
        due_at=row.due_at,
        attempts=row.attempts,
        in_index=row.in_index,
        session_id=row.session_id,
        created_at=row.created_at,
    )
