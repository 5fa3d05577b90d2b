"""One avatar instance: it takes offers and speaks what its sessions are given."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from backend.demo.answers import Answer, as_json
from backend.demo.forms import read_form
from backend.demo.probes import PROBES
from backend.demo.service import Latency, Routes
from backend.demo.wire import Exchange

Fields = dict[str, Any]
Act = Callable[[Fields], Awaitable[Answer]]

# A fluent voice says about fifteen letters in a second.
LETTER_SECONDS = 1 / 15

# Stands where a WebRTC answer will be once the demo has a media engine: it is well formed and sends no media.
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

    def __init__(self, name: str, latency: Latency, max_sessions: int) -> None:
        self.name = name
        self._latency = latency
        self._max_sessions = max_sessions
        self._silent_at: dict[int, float] = {}

    def __repr__(self) -> str:
        return f"<Instance {self.name} {len(self._silent_at)} sessions>"

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

    async def offer(self, fields: Fields) -> Answer:
        if not fields.get("sdp") or not fields.get("type"):
            return _failed("sdp and type are required")
        if len(self._silent_at) >= self._max_sessions:
            return _failed("max session reached")
        session = self._new_session()
        await self._latency.wait()
        sdp = ANSWER_SDP.format(session=session, name=self.name)
        return as_json({"sdp": sdp, "type": "answer", "sessionid": session})

    async def human(self, fields: Fields) -> Answer:
        if fields.get("interrupt"):
            await self.interrupt(fields)
        self._speak(fields["sessionid"], len(str(fields["text"])) * LETTER_SECONDS)
        return _ok()

    async def human_audio(self, exchange: Exchange) -> Answer:
        try:
            form = await read_form(exchange)
            session, audio = int(form.fields["sessionid"]), form.files["file"]
        except (ValueError, KeyError) as error:
            return _failed(repr(error))
        if session not in self._silent_at:
            return _unknown_session()
        # 16 kHz, 16 bit, one channel: what the voice input records.
        self._speak(session, audio.size / 32_000)
        return _ok()

    async def interrupt(self, fields: Fields) -> Answer:
        self._silent_at[fields["sessionid"]] = 0.0
        return _ok()

    async def is_speaking(self, fields: Fields) -> Answer:
        speaking = asyncio.get_running_loop().time() < self._silent_at[fields["sessionid"]]
        return as_json({"code": 0, "data": speaking})

    async def health(self, exchange: Exchange) -> Answer:
        return as_json(
            {
                "status": "running",
                "service": "avatar",
                "sessions": len(self._silent_at),
                "max_sessions": self._max_sessions,
            }
        )

    def _new_session(self) -> int:
        while (session := 100_000 + secrets.randbelow(900_000)) in self._silent_at:
            pass
        self._silent_at[session] = 0.0
        return session

    def _speak(self, session: int, seconds: float) -> None:
        now = asyncio.get_running_loop().time()
        self._silent_at[session] = max(now, self._silent_at[session]) + seconds

    def _in_session(self, act: Act) -> Callable[[Exchange], Awaitable[Answer]]:
        async def checked(fields: Fields) -> Answer:
            session = fields.get("sessionid")
            # "123456" is not 123456: the real instance looks the value up as it came.
            known = isinstance(session, int) and session in self._silent_at
            return await act(fields) if known else _unknown_session()

        return _with_json(checked)


def _with_json(act: Act) -> Callable[[Exchange], Awaitable[Answer]]:
    async def handler(exchange: Exchange) -> Answer:
        try:
            return await act(await exchange.read_object())
        except (ValueError, KeyError) as error:
            return _failed(repr(error))

    return handler


async def _accept(fields: Fields) -> Answer:
    return _ok()


def _ok() -> Answer:
    return as_json({"code": 0, "msg": "ok"})


def _failed(reason: str) -> Answer:
    return as_json({"code": -1, "msg": reason})


def _unknown_session() -> Answer:
    return as_json({"code": -1, "msg": "session not found"}, 404)
