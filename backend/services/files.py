"""Files of people: attached to conversations, added to knowledge bases, listed, loaded, removed."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.errors import BadRequest, Conflict, GatewayError, NotFound
from backend.models import Chat, Message
from backend.models.base import utc_now
from backend.models.chat import TITLE_CHARACTERS
from backend.services import file_records
from backend.services.database import Database
from backend.services.file_kinds import ATTACHMENTS, KINDS, KNOWLEDGE, Kind
from backend.services.file_names import meant
from backend.services.file_records import Record
from backend.services.file_store import FileStore, Reading
from backend.services.indexing import Indexing, Outcome
from backend.services.library import PUBLIC, Ingested, Library, Removed, Shelf
from backend.services.uploads import DEAD_AFTER, Destination, Received, Sent, Uploads

# What the retrieval service reads; other documents of a conversation are kept as they are.
READABLE = frozenset({"pdf", "docx", "txt"})
# Whoever received a file indexes it; should that process die, another one begins so much later.
GRACE = timedelta(seconds=600)
DELETE_TRIES = 3


@dataclass(frozen=True, slots=True)
class Asker:
    user_id: int
    is_tutor: bool

    @property
    def shelf(self) -> Shelf:
        """The knowledge base that their role is about."""
        return PUBLIC if self.is_tutor else Shelf(self.user_id)

    @property
    def shelves(self) -> tuple[Shelf, ...]:
        """Where they may remove, in the order of looking."""
        return (PUBLIC, Shelf(self.user_id)) if self.is_tutor else (Shelf(self.user_id),)


@dataclass(frozen=True, slots=True)
class Attached:
    """A file in a conversation; `outcome` is None for what is not to be indexed."""

    record: Record
    session_id: int
    message_id: int
    outcome: Outcome | None


class Files:
    """Keeps database, disk and index of one mind; opened and closed by the lifespan."""

    def __init__(
        self,
        database: Database,
        store: FileStore,
        library: Library,
        *,
        quota: int,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._store = store
        self._library = library
        self._uploads = Uploads(database, store, quota, now)
        self.indexing = Indexing(database, store, library, now=now)
        self._now = now

    async def start(self) -> None:
        with contextlib.suppress(GatewayError):  # a disk that fails now may be mended while others are served
            await self._store.sweep(DEAD_AFTER.total_seconds())
        self.indexing.start()

    async def aclose(self) -> None:
        await self.indexing.aclose()
        await self._uploads.aclose()
        self._store.close()

    async def attach(self, owner_id: int, sent: Sent) -> Attached:
        """Receive a file for a conversation, and index it if it is readable; an index that fails is told of.

        Raises NotFound for a conversation of somebody else's. Nothing is made before the file is accepted.
        """
        async with self._uploads.receive(sent, Destination(owner_id, ATTACHMENTS)) as received:
            chat_id = _chat_id(received.fields.get("session_id", ""))
            readable = received.kind.name in READABLE
            due_at = self._now() + GRACE if readable else None
            accept = _accept_into_chat(received, chat_id, "stored" if readable else "kept", due_at)
            record, session_id, message_id = await self._database.run(accept)
        outcome = await self.indexing.index(record) if readable else None
        return Attached(record, session_id, message_id, outcome)

    async def teach(self, asker: Asker, sent: Sent) -> tuple[Record, Ingested]:
        """Add a document to the asker's knowledge base: to the index, or nowhere.

        Raises what the index answers; nothing is kept then.
        """
        to = Destination(asker.user_id, KNOWLEDGE, public=asker.is_tutor)
        async with self._uploads.receive(sent, to) as received:
            due_at = self._now() + GRACE
            accept = file_records.accept(received.record.path, received.written, "stored", due_at)
            record = await self._database.run(accept)
        outcome = await self.indexing.index(record)
        if outcome.ingested is None:
            assert outcome.error is not None  # noqa: S101 - one of both
            raise outcome.error
        return record, outcome.ingested

    async def of_person(self, user_id: int) -> list[Record]:
        """Return a person's own files, newest first."""
        records = await self._database.run(file_records.of_shelf(Shelf(user_id)))
        return [record for record in records if record.state != "deleting"]

    async def public_names(self) -> list[str]:
        """Return the names of the public base: what the index has, and what it should have."""
        in_index = await self._library.names(PUBLIC)
        records = await self._database.run(file_records.of_shelf(PUBLIC))
        leaving = {record.name for record in records if record.state == "deleting"}
        indexed = [record.name for record in records if record.state == "indexed"]
        return [name for name in dict.fromkeys([*in_index, *indexed]) if name not in leaving]

    async def people(self) -> list[str]:
        """Return the ids of those who have documents in the index."""
        return await self._library.users()

    async def load(self, asker: Asker, file_id: str) -> tuple[Record, Reading]:
        """Open an own file, or for a tutor a public one. Raises NotFound."""
        number = _number(file_id)
        record = None if number is None else await self._database.run(file_records.by_id(number))
        if record is None or record.state == "deleting" or record.shelf not in asker.shelves:
            raise NotFound
        return record, await self._store.open(record.path, record.size)

    async def delete(self, asker: Asker, received: Sequence[str]) -> Removed:
        """Remove the file that one of the received names means, from index, disk and list.

        The index is asked for names of former times. Raises NotFound when nobody knows it.
        """
        for _ in range(DELETE_TRIES):
            found = await self._found(asker, received)
            if found is None:
                return await self._delete_former(asker, received)
            if found.state == "deleting":
                return Removed()
            with contextlib.suppress(Conflict):  # it changed in between: look again
                return await self.indexing.remove(found)
        raise Conflict("This file is changing just now. Please try again.")

    async def _found(self, asker: Asker, received: Sequence[str]) -> Record | None:
        for shelf in asker.shelves:
            records = {
                record.name: record for record in await self._database.run(file_records.of_shelf(shelf))
            }
            name = _meant(received, list(records))
            if name is not None:
                return records[name]
        return None

    async def _delete_former(self, asker: Asker, received: Sequence[str]) -> Removed:
        for shelf in asker.shelves:
            name = _meant(received, await self._library.names(shelf))
            if name is not None:
                return await self._library.remove(shelf, name)
        raise NotFound


def kind_of(record: Record) -> Kind:
    return KINDS[record.kind]


def _meant(received: Sequence[str], names: list[str]) -> str | None:
    return next((name for one in received if (name := meant(one, names)) is not None), None)


def _chat_id(value: str) -> int | None:
    """Return the id of a conversation, None where none is named. Raises BadRequest and NotFound."""
    digits = value.strip()
    if not digits:
        return None
    if not (digits.isascii() and digits.isdigit()):
        raise BadRequest("session_id needs to be a whole number.")
    number = _number(digits)
    if number is None:
        raise NotFound("There is no such conversation.")
    return number


def _number(digits: str) -> int | None:
    """Return an id, None for what can be none: databases count to two thousand million."""
    plain = digits.isascii() and digits.isdigit() and len(digits.lstrip("0")) <= 9
    return int(digits) if plain and len(digits) <= 20 else None


def _accept_into_chat(
    received: Received, chat_id: int | None, state: str, due_at: datetime | None
) -> Callable[[Session], tuple[Record, int, int]]:
    """Accept a file together with the message that shows it, in the named, the latest, or a new chat."""
    record, written, kind = received.record, received.written, received.kind

    def work(session: Session) -> tuple[Record, int, int]:
        accepted = file_records.accept(record.path, written, state, due_at)(session)
        chat = _chat(session, record, chat_id)
        message = Message(
            session_id=chat.id,
            role="user",
            content=record.name,
            file_type=kind.shown,
            file_path=record.address,
        )
        session.add(message)
        chat.message_count = Chat.message_count + 1
        chat.updated_at = utc_now()
        session.flush()
        return file_records.into_chat(accepted, chat.id)(session), chat.id, message.id

    return work


def _chat(session: Session, record: Record, chat_id: int | None) -> Chat:
    own = select(Chat).where(Chat.user_id == record.owner_id)
    if chat_id is not None:
        chat = session.scalar(own.where(Chat.id == chat_id))
        if chat is None:
            raise NotFound("There is no such conversation.")
        return chat
    file_records.in_turn(session, record.owner_id)  # or two files at once could make a conversation each
    chat = session.scalars(own.order_by(Chat.updated_at.desc(), Chat.id.desc()).limit(1)).first()
    if chat is None:
        chat = Chat(user_id=record.owner_id, title=f"File: {record.name}"[:TITLE_CHARACTERS])
        session.add(chat)
        session.flush()
    return chat
