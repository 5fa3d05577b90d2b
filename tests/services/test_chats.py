import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, select, update
from sqlalchemy.orm import Session

from backend.errors import BadRequest, Conflict, NotFound
from backend.models import Chat, Message, User
from backend.services import chats as rows
from backend.services.chats import NEW_TITLE, Chats, Conversation, asked_chat_id, chat_id_of
from backend.services.database import Database
from tests.models import conftest as tables

database_url, empty_app, app, engine = tables.database_url, tables.empty_app, tables.app, tables.engine

ADA, BOB = 1, 2
THEN = datetime(2026, 11, 25, 9, 30, tzinfo=UTC)


@pytest_asyncio.fixture
async def database(engine: Engine) -> AsyncIterator[Database]:
    opened = Database(engine, threads=4)
    with opened.transaction() as session:
        session.add_all([User(email=f"{n}@b.co", password_hash="x", role="student") for n in range(2)])
    yield opened
    await opened.aclose()


@pytest.fixture
def chats(database: Database) -> Chats:
    return Chats(database)


@pytest.mark.asyncio
async def test_conversation_opens_with_a_title_that_fits(chats: Chats) -> None:
    for title in ("[MATH] New Chat", None, "", " ", "学" * 200):
        await chats.create(ADA, title)
    titles = [summary.title for summary in await chats.history(ADA)]
    assert sorted(titles, key=str) == sorted(["[MATH] New Chat", *[NEW_TITLE] * 3, "学" * 120], key=str)


@pytest.mark.asyncio
async def test_history_has_the_most_recently_used_first_and_only_own_ones(
    chats: Chats, database: Database
) -> None:
    ids = [await chats.create(ADA, f"{n}") for n in range(3)]
    await chats.create(BOB, "Bob's")
    older = update(Chat).where(Chat.user_id == ADA).values(updated_at=THEN)
    await database.run(lambda session: session.execute(older).close())
    # Of the same moment, the later id is the newer one.
    assert [summary.id for summary in await chats.history(ADA)] == ids[::-1]
    await chats.ask(ADA, ids[1], "used")
    assert [summary.id for summary in await chats.history(ADA)] == [ids[1], ids[2], ids[0]]


@pytest.mark.asyncio
async def test_question_and_answer_are_counted_and_in_order(chats: Chats) -> None:
    chat_id = await chats.create(ADA, "x")
    before = (await chats.history(ADA))[0]
    for number in range(3):
        conversation = await chats.ask(ADA, chat_id, f"q{number}")
        assert (conversation.chat_id, conversation.is_new) == (chat_id, False)
        # Times do not decide: this answer claims to be older than its question.
        assert await chats.keep_answer(chat_id, f"a{number}", THEN - timedelta(days=number))
    said = await chats.messages(ADA, chat_id)
    assert [message.content for message in said] == ["q0", "a0", "q1", "a1", "q2", "a2"]
    assert [message.role for message in said] == ["user", "assistant"] * 3
    after = (await chats.history(ADA))[0]
    assert after.message_count == 6
    assert after.updated_at > before.updated_at


@pytest.mark.asyncio
async def test_answer_that_is_kept_twice_by_the_same_attempt_is_there_once(chats: Chats) -> None:
    conversation = await chats.ask(ADA, None, "q")
    for _ in range(3):
        assert await chats.keep_answer(conversation.chat_id, "a", THEN)
    assert len(await chats.messages(ADA, conversation.chat_id)) == 2
    assert (await chats.history(ADA))[0].message_count == 2


@pytest.mark.asyncio
async def test_answer_for_a_deleted_conversation_is_told_and_not_kept(
    chats: Chats, database: Database
) -> None:
    conversation = await chats.ask(ADA, None, "q")
    await chats.delete(ADA, conversation.chat_id)
    assert await chats.keep_answer(conversation.chat_id, "a", THEN) is False
    assert await database.run(lambda session: session.scalars(select(Message)).all()) == []


@pytest.mark.asyncio
async def test_question_without_a_conversation_opens_one_with_its_own_memory(chats: Chats) -> None:
    first, second = await chats.ask(ADA, None, "q" * 70), await chats.ask(ADA, None, "\n学习 ")
    assert (first.is_new, second.is_new) == (True, True)
    assert first.memory_key != second.memory_key
    assert {summary.title for summary in await chats.history(ADA)} == {"q" * 50, "学习"}


@pytest.mark.asyncio
async def test_many_who_ask_at_the_same_moment_are_each_served(chats: Chats, database: Database) -> None:
    mine, bobs = await chats.create(ADA, "x"), await chats.create(BOB, "x")
    other_process = Chats(database)
    asked = [
        (process.ask(ADA, chat_id, f"{number}"), chat_id)
        for number in range(20)
        for process in (chats, other_process)
        for chat_id in (mine, None, bobs)
    ]
    outcomes = await asyncio.gather(*(asking for asking, _ in asked), return_exceptions=True)
    for outcome, (_, chat_id) in zip(outcomes, asked, strict=True):
        assert isinstance(outcome, NotFound) is (chat_id == bobs), outcome
    assert len(await chats.messages(ADA, mine)) == 40
    history = await chats.history(ADA)
    assert sorted(summary.message_count for summary in history) == [*[1] * 40, 40]
    assert await chats.messages(BOB, bobs) == []


@pytest.mark.asyncio
async def test_question_of_a_deleted_user_spoils_no_other_question(chats: Chats) -> None:
    asked = (chats.ask(user_id, None, "q") for user_id in (ADA, 999, BOB))
    ada, nobody, bob = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(nobody, Conflict)
    assert [len(await chats.history(user_id)) for user_id in (ADA, BOB)] == [1, 1]
    assert isinstance(ada, Conversation)
    assert isinstance(bob, Conversation)


@pytest.mark.asyncio
async def test_others_conversations_do_not_exist(chats: Chats) -> None:
    chat_id = await chats.create(BOB, "Bob's")
    attempts = [
        chats.ask(ADA, chat_id, "q"),
        chats.messages(ADA, chat_id),
        chats.set_favorite(ADA, chat_id, True),
        chats.set_favorite(ADA, chat_id, False),
        chats.delete(ADA, chat_id),
    ]
    for attempt in attempts:
        with pytest.raises(NotFound):
            await attempt
    (untouched,) = await chats.history(BOB)
    assert (untouched.message_count, untouched.is_favorite) == (0, False)


@pytest.mark.asyncio
async def test_star_belongs_to_one_conversation_of_a_user(chats: Chats) -> None:
    first, second = [await chats.create(ADA, "x") for _ in range(2)]
    bobs = await chats.create(BOB, "x")
    for user_id, chat_id in ((BOB, bobs), (ADA, first), (ADA, second)):
        await chats.set_favorite(user_id, chat_id, True)
    starred = {
        summary.id for user in (ADA, BOB) for summary in await chats.history(user) if summary.is_favorite
    }
    assert starred == {second, bobs}
    await chats.set_favorite(ADA, second, False)
    assert not any(summary.is_favorite for summary in await chats.history(ADA))
    with pytest.raises(NotFound):
        await chats.set_favorite(ADA, 999, True)


@pytest.mark.asyncio
async def test_stars_given_at_once_leave_one(chats: Chats) -> None:
    ids = [await chats.create(ADA, "x") for _ in range(8)]
    await asyncio.gather(*(chats.set_favorite(ADA, chat_id, True) for chat_id in ids))
    assert sum(summary.is_favorite for summary in await chats.history(ADA)) == 1


@pytest.mark.asyncio
async def test_deleting_takes_the_messages_along(chats: Chats, database: Database) -> None:
    kept, gone = await chats.ask(ADA, None, "kept"), await chats.ask(ADA, None, "gone")
    await chats.delete(ADA, gone.chat_id)
    with pytest.raises(NotFound):
        await chats.delete(ADA, gone.chat_id)
    with pytest.raises(NotFound):
        await chats.messages(ADA, gone.chat_id)
    left = await database.run(lambda session: session.scalars(select(Message.content)).all())
    assert left == ["kept"]
    assert [summary.id for summary in await chats.history(ADA)] == [kept.chat_id]


@pytest.mark.asyncio
async def test_long_conversation_is_listed_with_its_newest_messages(
    chats: Chats, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat_id = await chats.create(ADA, "x")

    def fill(session: Session) -> None:
        session.add_all([Message(session_id=chat_id, role="user", content=f"{n:04}") for n in range(12)])

    await database.run(fill)
    monkeypatch.setattr(rows, "MOST_MESSAGES", 10)
    assert [m.content for m in await chats.messages(ADA, chat_id)] == [f"{n:04}" for n in range(2, 12)]
    monkeypatch.setattr(rows, "MOST_CHARACTERS", 13)
    assert [m.content for m in await chats.messages(ADA, chat_id)] == ["0009", "0010", "0011"]
    monkeypatch.setattr(rows, "MOST_CHARACTERS", 2)
    assert [m.content for m in await chats.messages(ADA, chat_id)] == ["0011"]


@pytest.mark.parametrize(
    "text", ["", "0", "01", "-1", "+1", "1.0", "1e3", "abc", "١", " 1", "2147483648", "9" * 70]
)
def test_id_that_no_conversation_has_is_not_found(text: str) -> None:
    with pytest.raises(NotFound):
        chat_id_of(text)


@given(st.text())
def test_any_text_is_an_id_or_not_found(text: str) -> None:
    with suppress(NotFound):
        assert str(chat_id_of(text)) == text


@given(st.one_of(st.none(), st.integers(), st.text()))
def test_what_a_question_names_is_an_id_nothing_or_an_error(value: int | str | None) -> None:
    try:
        found = asked_chat_id(value)
    except (BadRequest, NotFound):
        return
    assert found is None or found == int(value or 0)
