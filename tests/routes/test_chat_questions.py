"""What is asked: how a question is taken, what the model is told, what is kept."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.support.chat_model import FINISHED, Cast, ChatModel, understood
from tests.support.frontend import Frontend, refused
from tests.support.gateway import Served, serving, settings_for
from tests.support.peer import Exchange
from tests.support.ports import free_port
from tests.support.questions import answered, ask


@pytest.mark.asyncio
async def test_question_is_answered_and_both_are_kept(behind: Cast, pupil: Frontend) -> None:
    chat_id = await pupil.new_chat()
    answer = await ask(pupil, chat_id, "  Hi  ")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in answer.headers
    assert understood([answer.content]) == ("Hello there.", True)
    assert await pupil.messages(chat_id) == [("user", "Hi"), ("assistant", "Hello there.")]
    (asked,) = behind.model.asked
    assert asked["input"] == "Hi"
    assert asked["user_id"] == "1"


@pytest.mark.asyncio
async def test_model_knows_a_conversation_by_a_name_that_no_other_database_gives(
    behind: Cast, pupil: Frontend
) -> None:
    first, second = await pupil.new_chat(), await pupil.new_chat()
    for chat_id in (first, first, second):
        await answered(pupil, chat_id)
    names = [asked["session_id"] for asked in behind.model.asked]
    assert names[0] == names[1] != names[2]
    assert all(isinstance(name, str) and len(name) == 32 for name in names)


@pytest.mark.asyncio
async def test_urlencoded_question_is_as_good_as_multipart(pupil: Frontend) -> None:
    chat_id = await pupil.new_chat()
    answer = await pupil.urlencoded("/api/chat/stream", message="你好", session_id=str(chat_id))
    assert understood([answer.content]) == ("Hello there.", True)
    assert await pupil.messages(chat_id) == [("user", "你好"), ("assistant", "Hello there.")]


@pytest.mark.asyncio
async def test_question_without_a_conversation_opens_one_titled_with_its_beginning(pupil: Frontend) -> None:
    question = "x" * 49 + " and more than fifty characters"
    answer = await pupil.multipart("/api/chat/stream", message=question)
    assert understood([answer.content]) == ("Hello there.", True)
    (listed,) = (await pupil.get("/api/chat/history")).json()
    assert listed["title"] == "x" * 49
    assert listed["message_count"] == 2
    first = json.loads(answer.content.split(b"\n")[0].removeprefix(b"data: "))
    assert first == {"session_id": listed["id"], "status": "streaming"}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 400),
        ({"message": ""}, 400),
        ({"message": " \t\n "}, 400),
        ({"message": "x" * 16_001}, 400),
        ({"message": "a\x00b"}, 400),
        ({"message": "Hi", "session_id": "abc"}, 400),
        ({"message": "Hi", "session_id": "-1"}, 400),
        ({"message": "Hi", "session_id": "1.5"}, 400),
        ({"message": "Hi", "session_id": "null"}, 400),
        ({"message": "Hi", "session_id": "١"}, 400),
        ({"message": "Hi", "session_id": "999"}, 404),
        ({"message": "Hi", "session_id": "0"}, 404),
        ({"message": "Hi", "session_id": "007"}, 404),
        ({"message": "Hi", "session_id": "2147483648"}, 404),
        ({"message": "Hi", "session_id": "9" * 60}, 404),
        ({"message": "Hi", "session_id": "9" * 5000}, 400),
    ],
)
async def test_unusable_question_is_refused_before_anything_is_asked_or_kept(
    behind: Cast, pupil: Frontend, fields: dict[str, str], status: int
) -> None:
    refused(await pupil.multipart("/api/chat/stream", **({"nothing": ""} | fields)), status)
    assert behind.model.asked == []
    assert (await pupil.get("/api/chat/history")).json() == []


@pytest.mark.asyncio
async def test_longest_question_passes_in_both_kinds_of_form(behind: Cast, pupil: Frontend) -> None:
    question = "𝔵" * 16_000
    chat_id = await pupil.new_chat()
    for send in (pupil.multipart, pupil.urlencoded):
        answer = await send("/api/chat/stream", message=question, session_id=str(chat_id))
        assert answer.status_code == 200, answer.text
    assert [asked["input"] for asked in behind.model.asked] == [question] * 2


@pytest.mark.asyncio
async def test_body_that_is_no_form_is_415_and_a_huge_one_413(pupil: Frontend) -> None:
    refused(await pupil.json("/api/chat/stream", {"message": "Hi"}), 415)
    refused(await pupil.multipart("/api/chat/stream", message="x" * 300_000), 413)


@pytest.mark.asyncio
async def test_foreign_conversation_is_404(chatting: Served, behind: Cast, pupil: Frontend) -> None:
    tutor = Frontend(chatting.http, await chatting.token("tutor"))
    chat_id = await tutor.new_chat()
    refused(await ask(pupil, chat_id), 404, "not_found")
    assert await tutor.messages(chat_id) == []
    assert behind.model.asked == []


@pytest.mark.asyncio
async def test_visitor_without_a_sign_in_is_401(chatting: Served, behind: Cast) -> None:
    for token in (None, "null"):
        refused(await Frontend(chatting.http, token).multipart("/api/chat/stream", message="Hi"), 401)
    assert behind.model.asked == []


@pytest.mark.asyncio
async def test_two_questions_at_once_do_not_mix(behind: Cast, pupil: Frontend) -> None:
    async def echo(exchange: Exchange) -> None:
        asked = json.loads(await exchange.body())
        await ChatModel([*asked["input"], FINISHED]).tell(exchange)

    behind.peers["model"].script = echo
    chats = [await pupil.new_chat() for _ in range(2)]
    texts = [letter * 50 for letter in "ab"]
    answers = await asyncio.gather(*map(answered, [pupil] * 2, chats, texts))
    assert answers == texts
    for chat_id, text in zip(chats, texts, strict=True):
        assert await pupil.messages(chat_id) == [("user", text), ("assistant", text)]


@pytest.mark.asyncio
async def test_lecture_hall_that_asks_at_the_same_moment_is_answered(behind: Cast, pupil: Frontend) -> None:
    forms = [{"message": f"Question {number}"} for number in range(60)]
    calls = (pupil.http.post("/api/chat/stream", data=form, headers=pupil.headers) for form in forms)
    answers = await asyncio.gather(*calls)
    assert {understood([answer.content]) for answer in answers} == {("Hello there.", True)}
    rows = (await pupil.get("/api/chat/history")).json()
    assert [row["message_count"] for row in rows] == [2] * 60


@pytest.mark.asyncio
async def test_hits_of_retrieval_reach_the_model_but_not_the_conversation(
    behind: Cast, pupil: Frontend
) -> None:
    behind.retriever.hits = [{"text": "Entropy never falls.", "source": "physics.pdf", "page_num": 7}]
    chat_id = await pupil.new_chat()
    await answered(pupil, chat_id, "Explain entropy")
    assert behind.retriever.asked == [
        {"question": "Explain entropy", "user_id": "1", "personal_k": 3, "public_k": 2, "final_k": 5}
    ]
    (asked,) = behind.model.asked
    assert asked["input"].startswith("Explain entropy\n\n")
    assert "[1] physics.pdf, page 7: Entropy never falls." in asked["input"]
    assert (await pupil.messages(chat_id))[0] == ("user", "Explain entropy")


@pytest.mark.asyncio
async def test_retrieval_that_fails_changes_nothing(behind: Cast, tmp_path: Path) -> None:
    nowhere = behind.settings | {"rag_url": f"http://127.0.0.1:{free_port()}"}
    async with serving(settings_for(tmp_path, **nowhere)) as served:
        pupil = Frontend(served.http, await served.token())
        assert await answered(pupil, await pupil.new_chat(), "Explain entropy") == "Hello there."
    assert [asked["input"] for asked in behind.model.asked] == ["Explain entropy"]


@pytest.mark.asyncio
async def test_greeting_is_not_looked_up(behind: Cast, pupil: Frontend) -> None:
    await answered(pupil, await pupil.new_chat(), "write me a doctor joke, thanks")
    assert behind.retriever.asked == []
