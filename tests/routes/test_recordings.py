"""Recordings on their way to the caller's own session, and those for somebody else's."""

from collections.abc import AsyncIterator, Callable

import pytest

from backend.config import Settings
from tests.support.frontend import VOICE, Frontend, good, refused
from tests.support.instance import JSON, OFFER, one_instance, started
from tests.support.peer import Exchange, until

AGREED = b'{"sdp":"v=0\\r\\n","type":"answer","sessionid":123456}'


@pytest.mark.asyncio
async def test_recording_passes_on_while_it_arrives(settings: Callable[..., Settings]) -> None:
    arrived: list[bytes] = []

    async def script(exchange: Exchange) -> None:
        if exchange.head.target == b"/offer":
            await exchange.body()
            await exchange.reply(AGREED, JSON)
            return
        while chunk := await exchange.chunk():
            arrived.append(chunk)
        await exchange.reply(b'{"code":0}', JSON)

    async def body() -> AsyncIterator[bytes]:
        yield part("sessionid", b"123456") + part("file", VOICE, filename="../a.wav")[:-2]
        await until(lambda: VOICE in b"".join(arrived))
        yield b"\r\n--b--\r\n"

    async with one_instance(settings, script) as (student, _):
        headers = student.headers | {"Content-Type": "multipart/form-data; boundary=b"}
        good(await student.json("/api/webrtc/offer", OFFER))
        good(await student.http.post("/api/webrtc/humanaudio", content=body(), headers=headers))
        whole = b"".join(arrived)
        assert whole.count(b"123456") == whole.count(VOICE) == 1
        assert b"../a.wav" not in whole


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    """One part of a form with the boundary b."""
    file = "" if filename is None else f'; filename="{filename}"'
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
    return head.encode() + content + b"\r\n"


SOUND_FORMS: dict[str, tuple[bytes, int]] = {
    "foreign": (part("sessionid", b"654321") + part("file", VOICE, "a.wav"), 404),
    "foreign, after the recording": (part("file", VOICE, "a.wav") + part("sessionid", b"654321"), 404),
    "no number": (part("sessionid", b"x") + part("file", VOICE, "a.wav"), 404),
    "negative": (part("sessionid", b"-1") + part("file", VOICE, "a.wav"), 404),
    "huge": (part("sessionid", b"1" * 60) + part("file", VOICE, "a.wav"), 404),
    "endless": (part("sessionid", b"1" * 5000) + part("file", VOICE, "a.wav"), 413),
    "twice": (part("sessionid", b"123456") * 2 + part("file", VOICE, "a.wav"), 400),
    "two recordings": (part("sessionid", b"123456") + part("file", VOICE, "a.wav") * 2, 400),
    "none": (part("file", VOICE, "a.wav"), 400),
    "no recording": (part("sessionid", b"123456"), 400),
    "session as a file": (part("sessionid", b"123456", "a") + part("file", VOICE, "a.wav"), 415),
    "recording as text": (part("sessionid", b"123456") + part("file", VOICE), 415),
}


@pytest.mark.asyncio
async def test_recording_for_a_session_that_is_not_the_callers_own_is_never_whole(
    settings: Callable[..., Settings],
) -> None:
    heard: list[bytes] = []

    async def script(exchange: Exchange) -> None:
        if exchange.head.target == b"/offer":
            await exchange.body()
            await exchange.reply(AGREED, JSON)
            return
        heard.append(await exchange.body())
        await exchange.reply(b'{"code":0}', JSON)

    async with one_instance(settings, script) as (student, _):
        good(await student.json("/api/webrtc/offer", OFFER))
        headers = student.headers | {"Content-Type": "multipart/form-data; boundary=b"}
        for kind, (form, status) in SOUND_FORMS.items():
            answer = await student.http.post(
                "/api/webrtc/humanaudio", content=form + b"--b--\r\n", headers=headers
            )
            assert (kind, answer.status_code) == (kind, status)
            refused(answer, status)
        assert heard == []


@pytest.mark.asyncio
async def test_recording_reaches_the_session_of_the_demo(student: Frontend) -> None:
    await started(student)
    session = good(await student.json("/api/webrtc/offer", OFFER))["sessionid"]
    form = {"sessionid": (None, str(session)), "file": ("a.wav", VOICE + bytes(64_000))}
    good(await student.http.post("/api/webrtc/humanaudio", files=form, headers=student.headers))
    speaking = await student.json("/api/webrtc/is_speaking", {"sessionid": session})
    assert good(speaking)["data"] is True
