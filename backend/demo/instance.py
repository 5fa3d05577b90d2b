"""One avatar instance: it takes offers and speaks what its sessions are given.

A browser's offer is answered by the media engine, in video and sound. Offers that scripts make up get a
stand-in answer and sessions that only count the time; so do all where the engine's libraries are missing.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from backend.demo.answers import Answer, as_json
from backend.demo.forms import read_form
from backend.demo.probes import PROBES
from backend.demo.service import Latency, Routes
from backend.demo.studio import SessionGone, Studio, StudioError, engine_installed, of_a_browser
from backend.demo.wire import Exchange

Fields = dict[str, Any]
Act = Callable[[Fields], Awaitable[Answer]]

# A fluent voice says about fifteen letters in a second.
LETTER_SECONDS = 1 / 15

# About two minutes of what the voice input records; more would keep the avatar talking for as long.
RECORDING_BYTES = 4 * 1024 * 1024

# Well formed, and sends no media.
ANSWER_SDP = "\r\n".join(
    (
        "v=0",
        "o=- {session} 2 IN IP4 127.0.0.1",
        "s=demo avatar {name}",
        "t=0 0",
        "a=group:BUNDLE 0",
        "m=video 9 UDP/TLS/RTP/SAVPF 96",
        "c=IN IP4 0.0.0.0",
        "a=mid:0",
        "a=inactive",
        "a=rtpmap:96 VP8/90000",
        "",
    )
)


class Instance:
    """An avatar process with its sessions, which nobody but this instance knows."""

    def __init__(self, name: str, latency: Latency, max_sessions: int, max_live_sessions: int) -> None:
        self.name = name
        self._latency = latency
        self._max_sessions = max_sessions
        self._max_live_sessions = max_live_sessions
        self._silent_at: dict[int, float] = {}
        self._live: set[int] = set()
        self._studio = Studio(name, self._live.discard) if engine_installed() else None

    def __repr__(self) -> str:
        return f"<Instance {self.name} {self.sessions} sessions, {len(self._live)} of them live>"

    @property
    def sessions(self) -> int:
        return len(self._silent_at) + len(self._live)

    async def close(self) -> None:
        if self._studio is not None:
            await self._studio.close()

    def routes(self) -> Routes:
        return {
            **PROBES,
            ("POST", "/offer"): _with_json(self.offer),
            ("POST", "/human"): self._in_session(self.human),
            ("POST", "/humanaudio"): self.human_audio,
            ("POST", "/interrupt_talk"): self._in_session(self.interrupt),
            ("POST", "/is_speaking"): self._in_session(self.is_speaking),
            ("POST", "/record"): self._in_session(_accept),
            ("POST", "/set_audiotype"): self._in_session(_accept),
            ("GET", "/health"): self.health,
        }

    def hang_up(self, session: int | None = None) -> int:
        """Forget a session, or all, as when pages are closed; live ones end by their own peers."""
        gone = [each for each in self._silent_at if session in (None, each)]
        for each in gone:
            del self._silent_at[each]
        return len(gone)

    async def offer(self, fields: Fields) -> Answer:
        if not fields.get("sdp") or not fields.get("type"):
            return _failed("sdp and type are required")
        if self.sessions >= self._max_sessions:
            return _failed("max session reached")
        if self._studio is not None and of_a_browser(fields["sdp"]):
            return await self._offer_live(self._studio, fields["sdp"])
        session = self._new_session()
        self._silent_at[session] = 0.0
        await self._latency.wait()
        sdp = ANSWER_SDP.format(session=session, name=self.name)
        return as_json({"sdp": sdp, "type": "answer", "sessionid": session})

    async def _offer_live(self, studio: Studio, offer: str) -> Answer:
        if len(self._live) >= self._max_live_sessions:
            return _failed("max session reached")
        session = self._new_session()
        self._live.add(session)
        try:
            sdp = await studio.answer(session, offer)
        except BaseException:
            self._live.discard(session)
            raise
        await self._latency.wait()
        return as_json({"sdp": sdp, "type": "answer", "sessionid": session})

    async def human(self, fields: Fields) -> Answer:
        session, text, interrupt = fields["sessionid"], str(fields["text"]), bool(fields.get("interrupt"))
        if self._studio is not None and session in self._live:
            await self._studio.say(session, text, interrupt=interrupt)
            return _ok()
        if interrupt:
            self._silent_at[session] = 0.0
        self._speak(session, len(text) * LETTER_SECONDS)
        return _ok()

    async def human_audio(self, exchange: Exchange) -> Answer:
        try:
            form = await read_form(exchange, RECORDING_BYTES)
            session, audio = int(form.fields["sessionid"]), form.files["file"]
            if self._studio is not None and session in self._live:
                await self._studio.play(session, form.begins["file"])
                return _ok()
        except (ValueError, KeyError, StudioError) as error:
            return _refused(error)
        if session not in self._silent_at:
            return _unknown_session()
        # 16 kHz, 16 bit, one channel: what the voice input records.
        self._speak(session, audio.size / 32_000)
        return _ok()

    async def interrupt(self, fields: Fields) -> Answer:
        session = fields["sessionid"]
        if self._studio is not None and session in self._live:
            await self._studio.interrupt(session)
        else:
            self._silent_at[session] = 0.0
        return _ok()

    async def is_speaking(self, fields: Fields) -> Answer:
        session = fields["sessionid"]
        if self._studio is not None and session in self._live:
            speaking = await self._studio.speaking(session)
        else:
            speaking = asyncio.get_running_loop().time() < self._silent_at[session]
        return as_json({"code": 0, "data": speaking})

    async def health(self, exchange: Exchange) -> Answer:
        return as_json(
            {
                "status": "running",
                "service": "avatar",
                "sessions": self.sessions,
                "max_sessions": self._max_sessions,
            }
        )

    def _new_session(self) -> int:
        while self._knows(session := 100_000 + secrets.randbelow(900_000)):
            pass
        return session

    def _knows(self, session: int) -> bool:
        return session in self._silent_at or session in self._live

    def _speak(self, session: int, seconds: float) -> None:
        now = asyncio.get_running_loop().time()
        self._silent_at[session] = max(now, self._silent_at[session]) + seconds

    def _in_session(self, act: Act) -> Callable[[Exchange], Awaitable[Answer]]:
        async def checked(fields: Fields) -> Answer:
            session = fields.get("sessionid")
            # "123456" is not 123456: the real instance looks the value up as it came.
            known = isinstance(session, int) and self._knows(session)
            return await act(fields) if known else _unknown_session()

        return _with_json(checked)


def _with_json(act: Act) -> Callable[[Exchange], Awaitable[Answer]]:
    async def handler(exchange: Exchange) -> Answer:
        try:
            return await act(await exchange.read_object())
        except (ValueError, KeyError, StudioError) as error:
            return _refused(error)

    return handler


async def _accept(fields: Fields) -> Answer:
    return _ok()


def _ok() -> Answer:
    return as_json({"code": 0, "msg": "ok"})


def _failed(reason: str) -> Answer:
    return as_json({"code": -1, "msg": reason})


def _refused(error: Exception) -> Answer:
    if isinstance(error, SessionGone):
        return _unknown_session()
    return _failed(str(error) if isinstance(error, StudioError) else repr(error))


def _unknown_session() -> Answer:
    return as_json({"code": -1, "msg": "session not found"}, 404)
