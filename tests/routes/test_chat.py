import asyncio
from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.support.chat_model import Cast, ChatModel, understood
from tests.support.frontend import Frontend, good, refused
from tests.support.gateway import Served
from tests.support.peer import Exchange, until
from tests.support.questions import answered

SUMMARY = {"id", "title", "created_at", "updated_at", "message_count", "is_favorite"}
MESSAGE = {"role", "content", "created_at", "file_type", "file_path"}
STRANGE_IDS = [
    "0",
    "007",
    "-1",
    "+1",
    "1.0",
    "abc",
    "1e3",
    "2147483648",
    "9" * 40,
    "9" * 5000,
    "%00",
    "1%20",
    "é",
]


async def delete(pupil: Frontend, chat_id: object) -> httpx.Response:
    return await pupil.http.delete(f"/api/chat/{chat_id}", headers=pupil.headers)


async def listed(pupil: Frontend, **listing: str) -> httpx.Response:
    return await pupil.http.get("/api/message/list", params=listing, headers=pupil.headers)


@pytest.mark.asyncio
async def test_new_conversation_is_201_with_its_id(pupil: Frontend) -> None:
    answer = await pupil.json("/api/chat/new", {"title": "[MATH] New Chat", "other": 1})
    assert answer.status_code == 201
    assert set(answer.json()) == {"session_id"}
    assert answer.json()["session_id"] > 0
    assert (await pupil.json("/api/chat/new", {})).status_code == 201
    assert (await pupil.json("/api/chat/new", {"title": None})).status_code == 201
    titles = [row["title"] for row in good(await pupil.get("/api/chat/history"))]
    assert titles == ["New Chat", "New Chat", "[MATH] New Chat"]


@pytest.mark.asyncio
@pytest.mark.parametrize("content", [{"title": 5}, {"title": "a\x00b"}, {"title": "\ud800"}, [], "x"])
async def test_title_that_cannot_be_is_400(pupil: Frontend, content: Any) -> None:
    if content == {"title": "\ud800"}:
        headers = pupil.headers | {"Content-Type": "application/json"}
        answer = await pupil.http.post("/api/chat/new", content=b'{"title":"\\ud800"}', headers=headers)
    else:
        answer = await pupil.json("/api/chat/new", content)
    refused(answer, 400)


@pytest.mark.asyncio
async def test_lists_are_bare_arrays_with_times_that_say_their_zone(pupil: Frontend) -> None:
    assert good(await pupil.get("/api/chat/history")) == []
    chat_id = await pupil.new_chat()
    assert good(await listed(pupil, session_id=str(chat_id))) == []
    await answered(pupil, chat_id)
    (summary,) = good(await pupil.get("/api/chat/history"))
    assert set(summary) == SUMMARY
    assert (summary["id"], summary["message_count"], summary["is_favorite"]) == (chat_id, 2, False)
    messages = good(await listed(pupil, session_id=str(chat_id), timeout="30000"))
    assert [set(message) for message in messages] == [MESSAGE] * 2
    times = [summary["created_at"], summary["updated_at"], *(message["created_at"] for message in messages)]
    for time in times:
        assert time.endswith("Z")
        assert datetime.fromisoformat(time).tzinfo is not None


@pytest.mark.asyncio
async def test_messages_stay_in_their_order_when_they_have_the_same_time(pupil: Frontend) -> None:
    chat_id = await pupil.new_chat()
    for number in range(6):
        await answered(pupil, chat_id, f"q{number}")
    said = [content for role, content in await pupil.messages(chat_id) if role == "user"]
    assert said == [f"q{number}" for number in range(6)]


@pytest.mark.asyncio
async def test_star_is_exclusive_and_answers_with_the_new_state(pupil: Frontend) -> None:
    first, second = await pupil.new_chat(), await pupil.new_chat()
    for chat_id, content in ((first, {"is_favorite": True}), (second, {})):
        starred = good(await pupil.json(f"/api/chat/{chat_id}/favorite", content))
        assert set(starred) == {"msg", "session_id", "is_favorite"}
        assert (starred["session_id"], starred["is_favorite"]) == (chat_id, True)
    rows = good(await pupil.get("/api/chat/history"))
    assert {row["id"]: row["is_favorite"] for row in rows} == {first: False, second: True}
    unstarred = good(await pupil.json(f"/api/chat/{second}/favorite", {"is_favorite": False}))
    assert unstarred["is_favorite"] is False
    refused(await pupil.json(f"/api/chat/{second}/favorite", {"is_favorite": "yes"}), 400)


@pytest.mark.asyncio
async def test_deleted_conversation_is_gone_with_its_messages(pupil: Frontend) -> None:
    chat_id = await pupil.new_chat()
    await answered(pupil, chat_id)
    assert set(good(await delete(pupil, chat_id))) == {"msg"}
    refused(await delete(pupil, chat_id), 404)
    refused(await listed(pupil, session_id=str(chat_id)), 404)
    refused(await pupil.multipart("/api/chat/stream", message="x", session_id=str(chat_id)), 404)
    assert good(await pupil.get("/api/chat/history")) == []


@pytest.mark.asyncio
async def test_strange_and_foreign_ids_are_never_500(chatting: Served, pupil: Frontend) -> None:
    tutor = Frontend(chatting.http, await chatting.token("tutor"))
    foreign = await tutor.new_chat()
    for chat_id in [foreign, *STRANGE_IDS]:
        for answer in (
            await delete(pupil, chat_id),
            await pupil.json(f"/api/chat/{chat_id}/favorite", {"is_favorite": True}),
        ):
            refused(answer, 400 if chat_id == "%00" else 404)
        refused(await listed(pupil, session_id=str(chat_id)), 404)
    refused(await listed(pupil), 400)
    refused(await listed(pupil, session_id=""), 400)
    assert [row["is_favorite"] for row in good(await tutor.get("/api/chat/history"))] == [False]


@pytest.mark.asyncio
async def test_nobody_gets_in_without_a_sign_in(chatting: Served) -> None:
    visitor = Frontend(chatting.http)
    for answer in (
        await visitor.get("/api/chat/history"),
        await listed(visitor, session_id="1"),
        await visitor.json("/api/chat/new"),
        await visitor.json("/api/chat/1/favorite"),
        await delete(visitor, 1),
        await visitor.multipart("/api/chat", message="x"),
        await visitor.json("/api/sessionid", {"sessionid": 1}),
        await visitor.json("/api/llm/activate", {"model": "x"}),
    ):
        refused(answer, 401)


# The older call.


@pytest.mark.asyncio
async def test_older_call_answers_with_json(behind: Cast, pupil: Frontend) -> None:
    chat_id = await pupil.new_chat()
    answer = good(await pupil.multipart("/api/chat", message=" Hi ", session_id=str(chat_id)))
    assert answer == {"text_input": "Hi", "text_output": "Hello there.", "rtc_session_id": 0}
    assert await pupil.messages(chat_id) == [("user", "Hi"), ("assistant", "Hello there.")]


@pytest.mark.asyncio
async def test_older_call_streams_when_it_is_asked_to(pupil: Frontend) -> None:
    headers = pupil.headers | {"Accept": "text/event-stream"}
    answer = await pupil.http.post("/api/chat", data={"message": "Hi"}, headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert understood([answer.content]) == ("Hello there.", True)


@pytest.mark.asyncio
async def test_older_call_without_a_message_is_400(pupil: Frontend) -> None:
    refused(await pupil.multipart("/api/chat", session_id="1"), 400)
    refused(await pupil.json("/api/chat", {"session_id": 1}), 415)


@pytest.mark.asyncio
async def test_older_call_whose_client_leaves_keeps_what_was_said(
    behind: Cast, chatting: Served, pupil: Frontend
) -> None:
    model = behind.peers["model"].script = ChatModel(["Some of it."], then="hold")
    chat_id = await pupil.new_chat()
    form = {"message": "Hi", "session_id": str(chat_id)}
    call = asyncio.ensure_future(pupil.http.post("/api/chat", data=form, headers=pupil.headers))
    await until(lambda: len(model.asked) == 1)
    await asyncio.sleep(0.1)  # the word is on its way
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await until(lambda: model.left == 1)
    await until(lambda: chatting.gateway.answering.archive.waiting == 0)
    assert await pupil.messages(chat_id) == [("user", "Hi"), ("assistant", "Some of it.")]


# Another model.


@pytest.mark.asyncio
async def test_tutor_has_another_model_loaded(behind: Cast, chatting: Served) -> None:
    tutor = Frontend(chatting.http, await chatting.token("tutor"))
    model = behind.peers["model"].script = ChatModel(
        status=b"200 Fine", body=b'{"message":"ready","token":"x"}'
    )
    assert good(await tutor.json("/api/llm/activate", {"model": "qwen"})) == {"message": "ready"}
    assert (model.targets, model.asked) == ([b"/activate_model"], [{"model": "qwen"}])
    for content in ({}, {"model": ""}, {"model": 5}):
        refused(await tutor.json("/api/llm/activate", content), 400)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("status", "body", "shown"),
    [
        (b"400 Bad Request", b'{"error":"unknown"}', 400),
        (b"404 Not Found", b"<html>", 502),  # the service that most people run has no such call
        (b"500 Internal Server Error", b'{"error":"at 10.1.2.3"}', 502),
        (b"503 Service Unavailable", b"{}", 503),
        (b"200 OK", b"null", 502),
    ],
)
async def test_model_that_cannot_be_loaded_has_a_status(
    behind: Cast, chatting: Served, status: bytes, body: bytes, shown: int
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.reply(body, (b"Content-Type", b"application/json"), status=status)

    tutor = Frontend(chatting.http, await chatting.token("tutor"))
    behind.peers["model"].script = script
    refused(await tutor.json("/api/llm/activate", {"model": "qwen"}), shown)


@pytest.mark.asyncio
async def test_student_may_not_load_a_model(behind: Cast, pupil: Frontend) -> None:
    refused(await pupil.json("/api/llm/activate", {"model": "qwen"}), 403)
    assert behind.model.asked == []
