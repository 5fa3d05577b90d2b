"""A student asks, listens, looks back, stars and deletes."""

import asyncio
import re
from datetime import datetime

import pytest

from tests.contract.page import Page, connected, messages, opened
from tests.contract.services import WORDS
from tests.contract.stage import Scene
from tests.support.frontend import hidden, refused
from tests.support.peer import until

ANSWER = "".join(WORDS)
ZONED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


@pytest.mark.asyncio
async def test_answer_grows_in_the_page_and_both_messages_are_there_afterwards(student: Page) -> None:
    session = await opened(student)
    heard = await student.ask("Why does light bend?", session)
    assert (heard.text, heard.finished, heard.closed, heard.lost) == (ANSWER, True, True, [])
    assert [event.get("status") for event in heard.events].count("finished") == 1
    assert heard.events[-1]["status"] == "finished"
    assert heard.headers["content-type"].startswith("text/event-stream")
    assert heard.headers["cache-control"] == "no-cache"
    assert heard.headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in heard.headers
    assert await messages(student, session) == [("user", "Why does light bend?"), ("assistant", ANSWER)]


@pytest.mark.asyncio
async def test_no_event_is_split_over_two_reads_whatever_the_model_does(scene: Scene, student: Page) -> None:
    scene.model.words = tuple(f"词{number} " * (1 + number % 40) for number in range(300))
    heard = await student.ask("Tell me everything, please.", await opened(student))
    assert heard.lost == []
    assert heard.text == "".join(scene.model.words)


@pytest.mark.asyncio
async def test_dead_model_is_a_status_of_its_own_before_the_first_word(scene: Scene, student: Page) -> None:
    session = await opened(student)
    for mode, status in (("refuses", {502, 503}), ("error first", {502, 503})):
        scene.model.mode = mode
        answer = await student.fetch(
            "POST",
            "/api/chat/stream",
            files={"message": (None, "Hello?"), "session_id": (None, str(session))},
        )
        assert answer.status_code in status, mode
        refused(answer, answer.status_code)
    # What was asked is not lost with it.
    assert ("user", "Hello?") in await messages(student, session)


@pytest.mark.asyncio
async def test_model_that_breaks_midway_is_told_of_in_the_text_and_the_stream_still_finishes(
    scene: Scene, student: Page
) -> None:
    scene.model.mode = "breaks"
    session = await opened(student)
    heard = await student.ask("Why does light bend?", session)
    assert heard.status == 200
    assert heard.text.startswith("".join(WORDS[:2]))
    assert len(heard.text) > len("".join(WORDS[:2]))
    assert heard.finished
    assert not {"Traceback", "127.0.0.1", "10.1.2.3", "reset"} & set(heard.text.split())
    assert (await messages(student, session))[0] == ("user", "Why does light bend?")


@pytest.mark.asyncio
async def test_page_that_leaves_midway_loses_neither_message(scene: Scene, student: Page) -> None:
    scene.model.mode = "silent"
    session = await opened(student)
    form = {"message": (None, "Why?"), "session_id": (None, str(session))}
    headers = {"Authorization": f"Bearer {student.token}"}
    request = student.http.build_request("POST", "/api/chat/stream", files=form, headers=headers)
    response = await student.http.send(request, stream=True)
    got = b""
    async for read in response.aiter_raw():
        got += read
        if WORDS[-1].encode() in got:
            break
    await response.aclose()
    await until(lambda: scene.model_peer.open == 0)
    for _ in range(100):
        kept = await messages(student, session)
        if len(kept) == 2:
            break
        await asyncio.sleep(0.05)
    assert kept == [("user", "Why?"), ("assistant", ANSWER)]


@pytest.mark.asyncio
async def test_model_remembers_a_conversation_by_a_name_no_other_gateway_would_give(
    scene: Scene, student: Page
) -> None:
    first, second = await opened(student), await opened(student)
    for session in (first, second, first):
        await student.ask("And then?", session)
    names = [asked["session_id"] for asked in scene.model.asked]
    assert names[0] == names[2] != names[1]
    for name, session in zip(names[:2], (first, second), strict=True):
        assert isinstance(name, str)
        assert name != str(session)
        assert len(name) > 12


@pytest.mark.asyncio
async def test_empty_question_or_no_such_conversation_is_refused_before_anything_is_asked(
    scene: Scene, student: Page, tutor: Page
) -> None:
    foreign = await opened(tutor)
    session = await opened(student)
    for message, chat, status in (
        ("   ", session, 400),
        ("x", "abc", 400),
        ("x", foreign, 404),
        ("x", 10**9, 404),
    ):
        answer = await student.fetch(
            "POST", "/api/chat/stream", files={"message": (None, message), "session_id": (None, str(chat))}
        )
        assert answer.status_code in {status, 404 if chat == "abc" else status}, (message, chat)
        refused(answer, answer.status_code)
    for path in ("/api/chat", "/api/chat/stream"):
        refused(await student.fetch("POST", path, files={"session_id": (None, str(session))}), 400)
    assert scene.model.asked == []


@pytest.mark.asyncio
async def test_history_is_a_bare_array_with_zoned_times_and_one_star_at_most(student: Page) -> None:
    first, second = await opened(student, "[PHYS] New Chat"), await opened(student)
    for session in (first, second):
        answer = await student.axios("POST", f"/api/chat/{session}/favorite", json={"is_favorite": True})
        assert answer.status_code == 200
    await student.ask("Why does light bend?", first)
    history = (await student.axios("GET", "/api/chat/history")).json()
    assert [row["id"] for row in history] == [first, second]
    assert [row["is_favorite"] for row in history] == [False, True]
    assert history[0]["title"]
    for row in history:
        assert ZONED.fullmatch(row["updated_at"])
        datetime.fromisoformat(row["updated_at"])


@pytest.mark.asyncio
async def test_nobody_reaches_another_users_conversation(student: Page, tutor: Page) -> None:
    session = await opened(student)
    await student.ask("A secret?", session)
    refused(await tutor.axios("GET", "/api/message/list", params={"session_id": session}), 404)
    refused(await tutor.axios("DELETE", f"/api/chat/{session}"), 404)
    refused(await tutor.axios("POST", f"/api/chat/{session}/favorite", json={"is_favorite": True}), 404)
    assert (await tutor.axios("GET", "/api/chat/history")).json() == []


@pytest.mark.asyncio
async def test_deleted_conversation_is_gone_with_its_messages(student: Page) -> None:
    session = await opened(student)
    await student.ask("Why?", session)
    assert (await student.axios("DELETE", f"/api/chat/{session}")).status_code == 200
    refused(await student.axios("DELETE", f"/api/chat/{session}"), 404)
    refused(await student.axios("GET", "/api/message/list", params={"session_id": session}), 404)


@pytest.mark.asyncio
async def test_ids_that_are_none_are_refused_and_never_a_500(student: Page) -> None:
    for name in ("abc", "-1", "0", "007x", "9" * 40, "1.5", "é", "None"):
        for method, path in (("DELETE", f"/api/chat/{name}"), ("POST", f"/api/chat/{name}/favorite")):
            what = {"json": {"is_favorite": True}} if method == "POST" else {}
            answer = await student.axios(method, path, **what)
            assert (path, answer.status_code in (400, 404)) == (path, True)
        answer = await student.axios("GET", "/api/message/list", params={"session_id": name})
        assert (name, answer.status_code in (400, 404)) == (name, True)


@pytest.mark.asyncio
async def test_avatar_says_the_answer_in_the_session_of_its_own_user(scene: Scene, student: Page) -> None:
    session = await connected(student)
    confirmed = await student.fetch(
        "POST", "/api/sessionid", json={"sessionid": session}, headers={"sessionid": str(session)}
    )
    assert (confirmed.status_code, confirmed.content) == (200, b"")
    await student.ask("Why does light bend?", await opened(student))
    await until(lambda: scene.world.ledger("instance").by_path["/human"] > 0)


@pytest.mark.asyncio
async def test_session_that_was_not_issued_to_the_user_is_not_taken(student: Page, tutor: Page) -> None:
    session = await connected(student)
    for other in (session + 1, "x", -1, True, None, 10**30):
        answer = await student.fetch(
            "POST", "/api/sessionid", json={"sessionid": other}, headers={"sessionid": str(other)}
        )
        assert (other, answer.status_code) == (other, 400)
    refused(await tutor.fetch("POST", "/api/sessionid", json={"sessionid": session}), 400)


@pytest.mark.asyncio
async def test_dead_avatar_costs_the_text_nothing(scene: Scene, student: Page) -> None:
    await connected(student)
    running = (await scene.served.http.get(f"{scene.world.manager_url}/avatar/list")).json()["data"]
    stop = {"avatar_id": running[0]["avatar_id"]}
    await scene.served.http.post(f"{scene.world.manager_url}/avatar/stop", json=stop)
    heard = await student.ask("Why does light bend?", await opened(student))
    assert (heard.text, heard.finished) == (ANSWER, True)


@pytest.mark.asyncio
async def test_older_chat_call_answers_in_json_or_in_events(student: Page) -> None:
    session = await opened(student)
    form = {"message": (None, "Why?"), "session_id": (None, str(session))}
    whole = await student.axios("POST", "/api/chat", files=form)
    assert whole.json()["text_output"] == ANSWER
    events = await student.fetch("POST", "/api/chat", files=form, headers={"Accept": "text/event-stream"})
    assert events.headers["content-type"].startswith("text/event-stream")
    assert '"status":"finished"' in events.text.replace(" ", "")


@pytest.mark.asyncio
async def test_no_answer_about_the_model_shows_what_is_behind(
    scene: Scene, student: Page, tutor: Page
) -> None:
    scene.model.mode = "refuses"
    form = {"message": (None, "Hello?")}
    hidden(await student.fetch("POST", "/api/chat/stream", files=form))
    refused(await student.axios("POST", "/api/llm/activate", json={"model": "x"}), 403)
    activated = await tutor.axios("POST", "/api/llm/activate", json={"model": "x"})
    assert activated.status_code == 200
