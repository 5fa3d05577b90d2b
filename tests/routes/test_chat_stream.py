"""How an answer comes and ends, whoever fails or leaves meanwhile."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import delete

from backend.models import Chat
from backend.services.answer_stream import EVENT_BYTES, WRITE_BYTES
from backend.services.answering import BROKE_OFF
from backend.services.model import Patience
from tests.support.chat_model import FINISHED, Cast, ChatModel, chunk, event, understood
from tests.support.frontend import Frontend, refused
from tests.support.gateway import Served, serving, settings_for
from tests.support.peer import Exchange, until
from tests.support.ports import free_port
from tests.support.questions import answered, ask, tab

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
