import asyncio
import json
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest
from sqlalchemy import delete

from backend.models import Chat
from backend.services.answer_stream import EVENT_BYTES, WRITE_BYTES
from backend.services.answering import BROKE_OFF
from backend.services.model import Patience
from tests.support.chat_model import FINISHED, Cast, ChatModel, chunk, event, understood
from tests.support.frontend import Frontend, refused
from tests.support.gateway import Served, free_port, serving, settings_for
from tests.support.peer import Exchange, until

HI = "Hi"  # not worth looking up


async def ask(pupil: Frontend, chat_id: int, message: str = HI) -> httpx.Response:
    return await pupil.multipart("/api/chat/stream", message=message, session_id=str(chat_id))


async def answered(pupil: Frontend, chat_id: int, message: str = HI) -> str:
    """Ask and return the text, which must be whole for the frontend."""
    answer = await ask(pupil, chat_id, message)
    assert answer.status_code == 200, answer.text
    text, finished = understood([answer.content])
    assert finished
    assert answer.content.endswith(b'data: {"status":"finished"}\n\n')
    assert answer.content.count(b'"finished"') == 1
    return text


class Tab:
    """A browser that reads a stream as it comes, each chunk of the wire on its own."""

    def __init__(self, served: Served, headers: dict[str, str], fields: dict[str, str]) -> None:
        self._served = served
        body = urlencode(fields).encode()
        lines = {
            "Host": "t",
            "Content-Type": "application/x-www-form-urlencoded",
            "Content-Length": str(len(body)),
            **headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._request = f"POST /api/chat/stream HTTP/1.1\r\n{head}\r\n".encode() + body

    async def __aenter__(self) -> "Tab":
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._served.port)
        self._writer.write(self._request)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.leave()
        with suppress(ConnectionError):
            await self._writer.wait_closed()

    def leave(self) -> None:
        self._writer.close()

    async def status(self) -> int:
        async with asyncio.timeout(20):
            return int((await self._reader.readuntil(b"\r\n\r\n")).split()[1])

    async def write(self) -> bytes:
        """Return one write of the gateway, b"" at the end of the answer."""
        async with asyncio.timeout(20):
            size = int(await self._reader.readline(), 16)
            content = await self._reader.readexactly(size)
            await self._reader.readexactly(2)
            return content

    async def writes(self) -> list[bytes]:
        writes = []
        while write := await self.write():
            writes.append(write)
        return writes


def tab(served: Served, pupil: Frontend, chat_id: int, message: str = HI) -> Tab:
    return Tab(served, pupil.headers, {"message": message, "session_id": str(chat_id)})


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


# What the model does before its first word, and the status that must come of it.
FALSE_STARTS = {
    "500": (ChatModel(status=b"500 Internal Server Error"), 502, "upstream_rejected"),
    "400": (ChatModel(status=b"400 Bad Request"), 502, "upstream_rejected"),
    "404": (ChatModel(status=b"404 Not Found", body=b"<html>10.1.2.3", kind=b"text/html"), 502, None),
    "503": (ChatModel(status=b"503 Service Unavailable"), 503, "upstream_busy"),
    "429": (ChatModel(status=b"429 Too Many Requests"), 503, "upstream_busy"),
    "504": (ChatModel(status=b"504 Gateway Timeout"), 504, "upstream_first_byte_timeout"),
    "JSON error with status 200": (ChatModel(status=b"200 Fine"), 502, "upstream_rejected"),
    "page with status 200": (ChatModel(status=b"200 Fine", kind=b"text/html"), 502, "upstream_garbage"),
    "redirect": (ChatModel(status=b"302 Found"), 502, None),
    "error event": (ChatModel([{"status": "error", "error": "KeyError at 10.1.2.3"}]), 502, None),
    "error event, held open": (
        ChatModel([{"status": "error", "error": "x"}], then="hold"),
        502,
        "upstream_rejected",
    ),
    "end without a word": (ChatModel([]), 502, "upstream_broken"),
    "finished without a word": (ChatModel([FINISHED]), 502, "upstream_garbage"),
    "garbage": (ChatModel([b"data: {nonsense}\n\n" * 200], then="hold"), 502, "upstream_garbage"),
    "endless line": (ChatModel([b"data: " + b"x" * 70_000], then="hold"), 502, "upstream_garbage"),
    "reset": (ChatModel([], then="reset"), 502, "upstream_broken"),
    "cut": (ChatModel([], then="cut"), 502, "upstream_broken"),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", FALSE_STARTS)
async def test_model_that_fails_before_its_first_word_has_a_real_status(
    behind: Cast, chatting: Served, pupil: Frontend, kind: str
) -> None:
    model, status, code = FALSE_STARTS[kind]
    behind.peers["model"].script = model
    chat_id = await pupil.new_chat()
    shown = refused(await ask(pupil, chat_id), status, code)
    assert "chat model" in shown["msg"]
    assert await pupil.messages(chat_id) == [("user", "Hi")]
    await until(lambda: chatting.gateway.client.slots.in_use == 0)


@pytest.mark.asyncio
async def test_model_that_is_down_is_a_real_status_and_the_question_is_kept(
    behind: Cast, tmp_path: Path
) -> None:
    nowhere = behind.settings | {"llm_url": f"http://127.0.0.1:{free_port()}"}
    async with serving(settings_for(tmp_path, **nowhere)) as served:
        pupil = Frontend(served.http, await served.token())
        chat_id = await pupil.new_chat()
        shown = refused(await ask(pupil, chat_id), 502, "upstream_refused")
        assert shown["retryable"] is True
        assert "chat model" in shown["msg"]
        assert await pupil.messages(chat_id) == [("user", "Hi")]


@pytest.mark.asyncio
@pytest.mark.parametrize("parts", [None, [b": warming up\n\n"], [{"status": "streaming"}]])
async def test_model_that_keeps_its_first_word_back_is_504_in_time(
    behind: Cast, chatting: Served, pupil: Frontend, parts: list[bytes] | None
) -> None:
    chatting.gateway.answering.model.patience = Patience(first=0.3)
    if parts is None:
        behind.model.go.clear()
    else:
        behind.peers["model"].script = ChatModel(parts, then="hold")
    chat_id = await pupil.new_chat()
    refused(await ask(pupil, chat_id), 504, "upstream_first_byte_timeout")
    await until(lambda: chatting.gateway.client.slots.in_use == 0)


@pytest.mark.asyncio
@pytest.mark.parametrize("then", ["end", "cut", "reset", "hold"])
async def test_model_that_breaks_off_midway_is_told_of_in_the_text(
    behind: Cast, chatting: Served, pupil: Frontend, then: str
) -> None:
    chatting.gateway.answering.model.patience = Patience(idle=0.3)
    behind.peers["model"].script = ChatModel(["Half an "], then=then)
    chat_id = await pupil.new_chat()
    assert await answered(pupil, chat_id) == "Half an " + BROKE_OFF
    assert await pupil.messages(chat_id) == [("user", "Hi"), ("assistant", "Half an " + BROKE_OFF)]
    await until(lambda: chatting.gateway.client.slots.in_use == 0)


@pytest.mark.asyncio
async def test_error_event_midway_shows_something_and_nothing_internal(behind: Cast, pupil: Frontend) -> None:
    error = {"status": "error", "error": "Traceback: http://10.1.2.3:11434 refused"}
    behind.peers["model"].script = ChatModel(["Half ", error], then="hold")
    text = await answered(pupil, await pupil.new_chat())
    assert text == "Half " + BROKE_OFF
    assert "10.1.2.3" not in text


@pytest.mark.asyncio
async def test_answer_that_takes_too_long_in_all_is_ended(
    behind: Cast, chatting: Served, pupil: Frontend
) -> None:
    chatting.gateway.answering.model.patience = Patience(total=0.5)
    behind.peers["model"].script = ChatModel(["word ", 0.05] * 200)
    text = await answered(pupil, await pupil.new_chat())
    assert text.startswith("word word ")
    assert text.endswith(BROKE_OFF)


@pytest.mark.asyncio
async def test_answer_without_end_is_cut_at_a_megabyte(behind: Cast, pupil: Frontend) -> None:
    behind.peers["model"].script = ChatModel(["x" * 50_000] * 30, then="hold")
    text = await answered(pupil, await pupil.new_chat())
    assert text.startswith("x" * 1_000_000 + "\n\n[The answer is cut here")


@pytest.mark.asyncio
async def test_stream_ends_at_finished_although_the_model_keeps_its_own_open(
    behind: Cast, pupil: Frontend
) -> None:
    model = behind.peers["model"].script = ChatModel(["All of it.", FINISHED, "too late"], then="hold")
    assert await answered(pupil, await pupil.new_chat()) == "All of it."
    await until(lambda: model.left == 1)


@pytest.mark.asyncio
async def test_every_event_is_whole_in_one_small_write(
    behind: Cast, chatting: Served, pupil: Frontend
) -> None:
    text = 'Long "text" \n with \\ and 很多的汉字, 𝔵 \u2028 \x01' * 600
    behind.peers["model"].script = ChatModel(["short ", text, FINISHED])
    async with tab(chatting, pupil, await pupil.new_chat()) as browser:
        assert await browser.status() == 200
        writes = await browser.writes()
    assert understood(writes) == ("short " + text, True)
    for write in writes:
        assert write.endswith(b"\n\n")
        assert len(write) <= WRITE_BYTES
        assert max(len(each) for each in write.split(b"\n\n")) < EVENT_BYTES <= 1024


@pytest.mark.asyncio
async def test_events_that_the_model_split_reach_the_browser_whole(
    behind: Cast, chatting: Served, pupil: Frontend
) -> None:
    raw = b"".join(event(chunk(word)) for word in ("学", "习 ", "bit ", "by bit")) + event(FINISHED)
    behind.peers["model"].script = ChatModel([bytes([byte]) for byte in raw.replace(b"\n", b"\r\n")])
    async with tab(chatting, pupil, await pupil.new_chat()) as browser:
        assert await browser.status() == 200
        assert understood(await browser.writes()) == ("学习 bit by bit", True)


@pytest.mark.asyncio
async def test_text_arrives_while_the_model_is_still_thinking(
    behind: Cast, chatting: Served, pupil: Frontend
) -> None:
    behind.peers["model"].script = ChatModel(["First. "], then="hold")
    chat_id = await pupil.new_chat()
    async with tab(chatting, pupil, chat_id) as browser:
        assert await browser.status() == 200
        assert understood([await browser.write()]) == ("First. ", False)
        assert await pupil.messages(chat_id) == [("user", "Hi")]


@pytest.mark.asyncio
async def test_browser_that_leaves_midway_ends_the_models_work_and_keeps_what_was_said(
    behind: Cast, chatting: Served, pupil: Frontend
) -> None:
    model = behind.peers["model"].script = ChatModel(["Some of it, "], then="hold")
    chat_id = await pupil.new_chat()
    loop = asyncio.get_running_loop()
    async with tab(chatting, pupil, chat_id) as browser:
        await browser.status()
        await browser.write()
        browser.leave()
        left_at = loop.time()
        await until(lambda: model.left == 1)
        gone_after = loop.time() - left_at
    assert gone_after < 2.0  # alone on a machine: some milliseconds
    await until(lambda: chatting.gateway.answering.archive.waiting == 0)
    assert await pupil.messages(chat_id) == [("user", "Hi"), ("assistant", "Some of it, ")]
    assert chatting.gateway.client.slots.in_use == 0


@pytest.mark.asyncio
async def test_browser_that_leaves_before_the_first_word_leaves_the_question(
    behind: Cast, chatting: Served, pupil: Frontend
) -> None:
    behind.model.go.clear()
    chat_id = await pupil.new_chat()
    async with tab(chatting, pupil, chat_id) as browser:
        await until(lambda: len(behind.model.asked) == 1)
        browser.leave()
        await until(lambda: behind.model.left == 1)
    assert await pupil.messages(chat_id) == [("user", "Hi")]
    assert chatting.gateway.client.slots.in_use == 0


@pytest.mark.asyncio
async def test_browser_that_leaves_during_retrieval_leaves_the_question(
    behind: Cast, chatting: Served, pupil: Frontend
) -> None:
    left = asyncio.Event()

    async def never(exchange: Exchange) -> None:
        await exchange.client_left()
        left.set()

    behind.retriever.answer = never
    chat_id = await pupil.new_chat()
    async with tab(chatting, pupil, chat_id, "Explain entropy") as browser:
        await until(lambda: len(behind.retriever.asked) == 1)
        browser.leave()
        async with asyncio.timeout(5):
            await left.wait()
    assert behind.model.asked == []
    assert await pupil.messages(chat_id) == [("user", "Explain entropy")]


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
async def test_conversation_deleted_during_its_answer_is_no_error(
    behind: Cast, chatting: Served, pupil: Frontend
) -> None:
    behind.peers["model"].script = ChatModel(["One. ", 0.3, "Two.", FINISHED])
    chat_id = await pupil.new_chat()
    async with tab(chatting, pupil, chat_id) as browser:
        await browser.status()
        first = await browser.write()
        answer = await pupil.http.delete(f"/api/chat/{chat_id}", headers=pupil.headers)
        assert answer.status_code == 200
        assert understood([first, *await browser.writes()]) == ("One. Two.", True)
    await until(lambda: chatting.gateway.answering.archive.waiting == 0)
    assert (await pupil.get("/api/chat/history")).json() == []


@pytest.mark.asyncio
async def test_stop_of_the_gateway_keeps_what_was_said(behind: Cast, tmp_path: Path) -> None:
    behind.peers["model"].script = ChatModel(["Said before the end. "], then="hold")
    async with serving(settings_for(tmp_path, gateway_drain_seconds=0.2, **behind.settings)) as served:
        pupil = Frontend(served.http, await served.token())
        chat_id = await pupil.new_chat()
        browser = await tab(served, pupil, chat_id).__aenter__()
        await browser.status()
        await browser.write()
    await browser.__aexit__()
    with closing(sqlite3.connect(tmp_path / "gateway.db")) as kept:
        rows = kept.execute("SELECT role, content FROM message ORDER BY id").fetchall()
    assert rows == [("user", "Hi"), ("assistant", "Said before the end. ")]


@pytest.mark.asyncio
async def test_locked_database_at_the_end_neither_holds_the_browser_up_nor_loses_the_answer(
    behind: Cast, chatting: Served, pupil: Frontend, tmp_path: Path
) -> None:
    behind.peers["model"].script = ChatModel(["One. ", 0.3, "Two.", FINISHED])
    chat_id = await pupil.new_chat()
    with closing(sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)) as other:
        async with tab(chatting, pupil, chat_id) as browser:
            await browser.status()
            first = await browser.write()
            other.execute("BEGIN IMMEDIATE")
            # No error after a success: the text is whole, and so is the end of it.
            assert understood([first, *await browser.writes()]) == ("One. Two.", True)
        assert chatting.gateway.answering.archive.waiting == 1
        other.execute("ROLLBACK")
    await until(lambda: chatting.gateway.answering.archive.waiting == 0, 20)
    assert await pupil.messages(chat_id) == [("user", "Hi"), ("assistant", "One. Two.")]


@pytest.mark.asyncio
async def test_half_characters_and_nul_do_not_break_an_answer(behind: Cast, pupil: Frontend) -> None:
    halves = [b'data: {"chunk":"\\ud835"}\n\n', b'data: {"chunk":"\\udd35 a\\u0000b \\ud800 c"}\n\n']
    behind.peers["model"].script = ChatModel([*halves, FINISHED])
    chat_id = await pupil.new_chat()
    assert await answered(pupil, chat_id) == "𝔵 ab � c"
    assert await pupil.messages(chat_id) == [("user", "Hi"), ("assistant", "𝔵 ab � c")]


@pytest.mark.asyncio
async def test_user_deleted_during_an_answer_is_no_error(
    behind: Cast, chatting: Served, pupil: Frontend
) -> None:
    behind.peers["model"].script = ChatModel(["One. ", 0.2, "Two.", FINISHED])
    async with tab(chatting, pupil, await pupil.new_chat()) as browser:
        await browser.status()
        first = await browser.write()
        await chatting.gateway.database.run(lambda session: session.execute(delete(Chat)).close())
        assert understood([first, *await browser.writes()]) == ("One. Two.", True)


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
