"""Conversations and what was said in them, as rows; every one belongs to one user."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Update, delete, func, select, update
from sqlalchemy.orm import Session

from backend.errors import BadRequest, NotFound
from backend.models import Chat, Message, User
from backend.models.base import utc_now
from backend.models.chat import TITLE_CHARACTERS
from backend.services.database import Database
from backend.services.write_line import WriteLine

NEW_TITLE = "New Chat"
# The title of a conversation that began with a question.
QUESTION_TITLE_CHARACTERS = 50
# The frontend takes both lists whole and has no pages: beyond these, older entries are left out.
MOST_CHATS = 1_000
MOST_MESSAGES = 1_000
MOST_CHARACTERS = 4_000_000
# What the integer columns of PostgreSQL hold.
_MOST_ID = 2**31 - 1
_DIGITS = re.compile(r"[0-9]{1,64}")

# A lecture hall asks at once, and its answers end at once: so many questions and answers may stand in line.
MOST_WAITING = 2_000

NO_CHAT = "There is no such conversation of yours."


@dataclass(frozen=True, slots=True)
class Conversation:
    """Where a question was asked: the chat, and the name under which the model remembers it."""

    chat_id: int
    memory_key: str
    is_new: bool


@dataclass(frozen=True, slots=True)
class Summary:
    id: int
    title: str | None
    created_at: datetime
    updated_at: datetime
    message_count: int
    is_favorite: bool


@dataclass(frozen=True, slots=True)
class Said:
    role: str
    content: str | None
    created_at: datetime
    file_type: str | None
    file_path: str | None


def chat_id_of(value: str) -> int:
    """Return the id that a path or query names. Raises NotFound for what no chat can be called."""
    if not _DIGITS.fullmatch(value) or value.startswith("0") or int(value) > _MOST_ID:
        raise NotFound(NO_CHAT)
    return int(value)


def asked_chat_id(value: int | str | None) -> int | None:
    """Return the id in a question's form, None where it names none.

    Raises BadRequest for what is no number, NotFound for a number that no chat can have.
    """
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    if not _DIGITS.fullmatch(text):
        raise BadRequest("session_id needs to be a whole number.")
    return chat_id_of(text)


class Chats:
    """Reads and writes conversations; whatever is not the user's own is NotFound."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._line = WriteLine(database, waiting=MOST_WAITING)

    async def create(self, user_id: int, title: str | None) -> int:
        """Open a conversation and return its id; a long title is cut."""
        title = (title or "")[:TITLE_CHARACTERS].strip() or NEW_TITLE
        return await self._database.run(lambda session: _opened(session, user_id, title).id)

    async def history(self, user_id: int) -> list[Summary]:
        """Return the user's conversations, the most recently used first."""
        return await self._database.run(lambda session: _history(session, user_id))

    async def messages(self, user_id: int, chat_id: int) -> list[Said]:
        """Return what was said, oldest first."""
        return await self._database.run(lambda session: _messages(session, user_id, chat_id))

    async def set_favorite(self, user_id: int, chat_id: int, is_favorite: bool) -> None:
        """Star a conversation, which takes the star from any other, or take its own away."""
        await self._database.run(_star(user_id, chat_id, is_favorite))

    async def delete(self, user_id: int, chat_id: int) -> None:
        """Delete a conversation with its messages."""
        gone = delete(Chat).where(Chat.id == chat_id, Chat.user_id == user_id).returning(Chat.id)
        if await self._database.run(lambda session: session.execute(gone).scalar()) is None:
            raise NotFound(NO_CHAT)

    async def ask(self, user_id: int, chat_id: int | None, question: str) -> Conversation:
        """Keep a question, in a new conversation when it names none. Raises Overloaded."""
        return await self._line.run(_ask(user_id, chat_id, question))

    async def keep_answer(self, chat_id: int, answer: str, said_at: datetime) -> bool:
        """Keep an answer; tell whether its conversation still exists.

        May be repeated with the same time: an attempt whose outcome was not known is found by it. Raises
        Overloaded.
        """
        return await self._line.run(_answer(chat_id, answer, said_at))

    async def aclose(self) -> None:
        """Finish what waits to be written."""
        await self._line.aclose()


def _opened(session: Session, user_id: int, title: str, messages: int = 0) -> Chat:
    chat = Chat(user_id=user_id, title=title, message_count=messages)
    session.add(chat)
    session.flush()
    return chat


def _history(session: Session, user_id: int) -> list[Summary]:
    order = Chat.updated_at.desc(), Chat.id.desc()
    chats = session.scalars(select(Chat).filter_by(user_id=user_id).order_by(*order).limit(MOST_CHATS))
    return [
        Summary(chat.id, chat.title, chat.created_at, chat.updated_at, chat.message_count, chat.is_favorite)
        for chat in chats
    ]


def _messages(session: Session, user_id: int, chat_id: int) -> list[Said]:
    _require(session, user_id, chat_id)
    newest = (
        select(Message.id, func.coalesce(func.length(Message.content), 0))
        .where(Message.session_id == chat_id)
        .order_by(Message.id.desc())
        .limit(MOST_MESSAGES)
    )
    room, oldest = MOST_CHARACTERS, 0
    for message_id, characters in session.execute(newest):
        room -= characters
        if room < 0 and oldest:
            break
        oldest = message_id
    rows = select(Message).where(Message.session_id == chat_id, Message.id >= oldest).order_by(Message.id)
    return [Said(m.role, m.content, m.created_at, m.file_type, m.file_path) for m in session.scalars(rows)]


def _require(session: Session, user_id: int, chat_id: int) -> None:
    if session.scalar(select(Chat.id).where(Chat.id == chat_id, Chat.user_id == user_id)) is None:
        raise NotFound(NO_CHAT)


def _star(user_id: int, chat_id: int, is_favorite: bool) -> Callable[[Session], None]:
    def work(session: Session) -> None:
        # Two stars at once come one after the other; SQLite locks itself with the first write.
        session.execute(select(User.id).where(User.id == user_id).with_for_update(key_share=True))
        mine = Chat.user_id == user_id, Chat.id == chat_id
        starred = update(Chat).where(*mine).values(is_favorite=is_favorite).returning(Chat.id)
        if session.execute(starred).scalar() is None:
            raise NotFound(NO_CHAT)
        if is_favorite:
            others = Chat.user_id == user_id, Chat.id != chat_id, Chat.is_favorite
            session.execute(update(Chat).where(*others).values(is_favorite=False))

    return work


def _ask(user_id: int, chat_id: int | None, question: str) -> Callable[[Session], Conversation]:
    def work(session: Session) -> Conversation:
        if chat_id is None:
            chat = _opened(session, user_id, question[:QUESTION_TITLE_CHARACTERS].strip(), messages=1)
            session.add(Message(session_id=chat.id, role="user", content=question))
            return Conversation(chat.id, chat.memory_key, is_new=True)
        counted = _counted().where(Chat.id == chat_id, Chat.user_id == user_id).returning(Chat.memory_key)
        memory_key = session.execute(counted).scalar()
        if memory_key is None:
            raise NotFound(NO_CHAT)
        session.add(Message(session_id=chat_id, role="user", content=question))
        return Conversation(chat_id, memory_key, is_new=False)

    return work


def _answer(chat_id: int, answer: str, said_at: datetime) -> Callable[[Session], bool]:
    def work(session: Session) -> bool:
        # Locks the row first: a conversation cannot be deleted between this and the new message.
        counted = _counted().where(Chat.id == chat_id).returning(Chat.id)
        if session.execute(counted).scalar() is None:
            return False
        same = Message.session_id == chat_id, Message.role == "assistant", Message.created_at == said_at
        if session.scalar(select(Message.id).where(*same)) is not None:
            session.execute(_counted(-1).where(Chat.id == chat_id))
            return True
        session.add(Message(session_id=chat_id, role="assistant", content=answer, created_at=said_at))
        return True

    return work


def _counted(by: int = 1) -> Update:
    return update(Chat).values(message_count=Chat.message_count + by, updated_at=utc_now())
