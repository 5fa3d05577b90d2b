"""The user's own avatar session: who may speak to it, and the answers that it speaks."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from backend.models import AvatarSession
from tests.support.chat_model import FINISHED, Cast, ChatModel
from tests.support.frontend import Frontend, good, refused
from tests.support.gateway import Served
from tests.support.instance import OFFER
from tests.support.peer import Exchange, silent, until
from tests.support.questions import answered

OWN = 123456
NO_OBJECTS = [b"", b"null", b"[]", b"{", b"\xff", b"[" * 9000, b'{"sessionid":1' + b"0" * 5000 + b"}"]
NAMING = ["human", "interrupt_talk", "is_speaking", "record", "set_audiotype"]


async def connected(frontend: Frontend) -> int:
    """Start the avatar and connect as the video button does; return the session number."""
    good(await frontend.urlencoded("/api/avatar/start", avatar_name="Ada"))
    return int(good(await frontend.json("/api/webrtc/offer", OFFER))["sessionid"])


async def confirm(frontend: Frontend, content: Any = None, header: str | None = None) -> httpx.Response:
    headers = frontend.headers | ({} if header is None else {"sessionid": header})
    if content is None:
        return await frontend.http.post("/api/sessionid", headers=headers)
    return await frontend.http.post("/api/sessionid", json=content, headers=headers)


async def kept(served: Served, user_id: int = 1) -> int | None:
    ready = select(AvatarSession.peer_session).filter_by(user_id=user_id, state="ready")
    return await served.gateway.database.run(lambda session: session.scalar(ready))


@pytest.mark.asyncio
async def test_answer_is_spoken_by_the_users_own_avatar_in_order(
    behind: Cast, chatting: Served, pupil: Frontend
) -> None:
    assert await connected(pupil) == OWN
    behind.peers["model"].script = ChatModel(["One. ", "Two", ". 三。四", FINISHED])
    assert await answered(pupil, await pupil.new_chat()) == "One. Two. 三。四"
    await until(lambda: len(behind.instance.said) == 4)
    assert behind.instance.said == [
        {"sessionid": OWN, "text": text, "type": "echo"} for text in ("One.", "Two.", "三。", "四")
    ]


@pytest.mark.asyncio
async def test_without_an_avatar_session_of_the_own_nothing_is_spoken_anywhere(
    behind: Cast, chatting: Served, pupil: Frontend
) -> None:
    """A default session or port would speak one user's answers from another one's avatar."""
    tutor = Frontend(chatting.http, await chatting.token("tutor"))
    await connected(tutor)
    await answered(pupil, await pupil.new_chat())
    good(await pupil.urlencoded("/api/avatar/start", avatar_name="Ada"))
    await answered(pupil, await pupil.new_chat())
    await asyncio.sleep(0.1)
    assert behind.instance.said == []


@pytest.mark.asyncio
async def test_slow_or_dead_avatar_never_slows_the_text(
    behind: Cast, chatting: Served, pupil: Frontend
) -> None:
    await connected(pupil)
    behind.instance.answer = silent
    behind.peers["model"].script = ChatModel([*(f"Sentence {n}. " for n in range(50)), FINISHED])
    chat_id = await pupil.new_chat()
    # One call of an avatar that hangs takes 3 s: fifty of them in the way would take minutes.
    async with asyncio.timeout(15):
        for _ in range(2):
            await answered(pupil, chat_id)
    assert len(behind.instance.said) <= 3


@pytest.mark.asyncio
async def test_browser_that_leaves_silences_its_avatar(
    behind: Cast, chatting: Served, pupil: Frontend
) -> None:
    go = asyncio.Event()

    async def wait(exchange: Exchange) -> None:
        await go.wait()
        await exchange.reply(b'{"code":0}', (b"Content-Type", b"application/json"))

    await connected(pupil)
    behind.instance.answer = wait
    model = behind.peers["model"].script = ChatModel(["One. Two. Three. "], then="hold")
    form = {"message": "Hi", "session_id": str(await pupil.new_chat())}
    async with pupil.http.stream("POST", "/api/chat/stream", data=form, headers=pupil.headers) as answer:
        assert answer.status_code == 200
        await until(lambda: len(behind.instance.said) == 1)
    await until(lambda: model.left == 1)
    await until(lambda: chatting.gateway.answering.archive.waiting == 0)
    go.set()
    await asyncio.sleep(0.1)
    assert behind.instance.texts == ["One."]


@pytest.mark.asyncio
@pytest.mark.parametrize("told", [OWN, str(OWN)])
async def test_gateway_learns_the_session_from_the_answer_to_the_offer(
    behind: Cast, chatting: Served, pupil: Frontend, told: object
) -> None:
    behind.instance.session = told
    good(await pupil.urlencoded("/api/avatar/start", avatar_name="Ada"))
    answer = good(await pupil.json("/api/webrtc/offer", OFFER))
    assert answer["sessionid"] == OWN
    assert type(answer["sessionid"]) is int
    assert await kept(chatting) == OWN


@pytest.mark.asyncio
@pytest.mark.parametrize("told", [None, True, -1, 1.5, "abc", "", 2**63, {"a": 1}])
async def test_session_that_is_no_number_is_not_learnt(
    behind: Cast, chatting: Served, pupil: Frontend, told: object
) -> None:
    behind.instance.session = told
    good(await pupil.urlencoded("/api/avatar/start", avatar_name="Ada"))
    assert "sessionid" not in good(await pupil.json("/api/webrtc/offer", OFFER))
    assert await kept(chatting) is None


@pytest.mark.asyncio
async def test_new_start_forgets_the_old_session(chatting: Served, pupil: Frontend) -> None:
    """Text after a reconnect would go to a session that is dead."""
    await connected(pupil)
    assert await kept(chatting) == OWN
    good(await pupil.urlencoded("/api/avatar/start", avatar_name="Ada"))
    assert await kept(chatting) is None
    refused(await confirm(pupil, {"sessionid": OWN}), 400)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("content", "header"),
    [
        ({"sessionid": OWN}, str(OWN)),
        ({"sessionid": OWN}, None),
        ({"sessionid": str(OWN)}, None),
        (None, str(OWN)),
    ],
)
async def test_confirming_the_own_session_is_200_and_empty(
    pupil: Frontend, content: object, header: str | None
) -> None:
    await connected(pupil)
    answer = await confirm(pupil, content, header)
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("content", "header"),
    [
        ({"sessionid": 654321}, None),
        ({"sessionid": OWN}, "654321"),
        ({"sessionid": 654321}, str(OWN)),
        ({"sessionid": "1" * 5000}, None),
        ({"sessionid": 10**30}, None),
        ({"sessionid": -5}, None),
        ({"sessionid": True}, None),
        ({"sessionid": 1.5}, None),
        ({"sessionid": None}, None),
        ({"sessionid": "x"}, None),
        ({}, None),
        ([], None),
        (None, None),
        (None, "x"),
        (None, ""),
    ],
)
async def test_session_that_is_not_the_own_is_400(
    pupil: Frontend, chatting: Served, content: object, header: str | None
) -> None:
    refused(await confirm(pupil, content, header), 400)
    await connected(pupil)
    refused(await confirm(pupil, content, header), 400)
    assert await kept(chatting) == OWN


@pytest.mark.asyncio
async def test_one_user_cannot_take_anothers_session(behind: Cast, chatting: Served, pupil: Frontend) -> None:
    tutor = Frontend(chatting.http, await chatting.token("tutor"))
    behind.instance.session = 222222
    assert await connected(tutor) == 222222
    behind.instance.session = OWN
    await connected(pupil)
    refused(await confirm(pupil, {"sessionid": 222222}), 400)
    for path in NAMING:
        refused(await pupil.json(f"/api/webrtc/{path}", {"sessionid": 222222, "text": "x"}), 404)
        refused(await pupil.json(f"/api/webrtc/{path}", {"sessionid": "222222", "text": "x"}), 404)
    assert behind.instance.said + behind.instance.others == []


@pytest.mark.asyncio
@pytest.mark.parametrize("path", NAMING)
async def test_own_session_goes_to_the_instance_as_a_number(behind: Cast, pupil: Frontend, path: str) -> None:
    """The instance never finds a session under its digits."""
    await connected(pupil)
    for session in (OWN, str(OWN)):
        good(await pupil.json(f"/api/webrtc/{path}", {"sessionid": session, "text": "你好", "type": "echo"}))
    seen = [*behind.instance.said, *(fields for _, fields in behind.instance.others)]
    assert seen == [{"sessionid": OWN, "text": "你好", "type": "echo"}] * 2


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "content", [b"", b"null", b"[]", b"{", b"\xff", b"[" * 9000, b'{"sessionid":1' + b"0" * 5000 + b"}"]
)
async def test_signalling_that_is_no_json_object_is_refused(
    behind: Cast, pupil: Frontend, content: bytes
) -> None:
    await connected(pupil)
    headers = pupil.headers | {"Content-Type": "application/json"}
    refused(await pupil.http.post("/api/webrtc/human", content=content, headers=headers), 400)
    assert behind.instance.said == []


@pytest.mark.asyncio
async def test_session_named_twice_or_in_another_alphabet_does_not_slip_through(
    behind: Cast, pupil: Frontend
) -> None:
    await connected(pupil)
    headers = pupil.headers | {"Content-Type": "application/json; charset=utf-16"}
    twice = b'{"sessionid":123456,"text":"x","type":"echo","sessionid":222222}'
    refused(await pupil.http.post("/api/webrtc/human", content=twice, headers=headers), 404)
    wide = json.dumps({"sessionid": OWN, "text": "x"}).encode("utf-16")
    good(await pupil.http.post("/api/webrtc/human", content=wide, headers=headers))
    assert behind.instance.said == [{"sessionid": OWN, "text": "x"}]
    assert behind.peers["instance"].heads[-1].get(b"content-type") == b"application/json"


@pytest.mark.asyncio
async def test_older_call_tells_the_session(pupil: Frontend) -> None:
    await connected(pupil)
    assert good(await pupil.multipart("/api/chat", message="Hi"))["rtc_session_id"] == OWN
