"""The chat model: canned lessons as an event stream, at the pace of a real one."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator

from backend.demo.answers import Answer, as_json
from backend.demo.service import Latency, Routes
from backend.demo.tutor import Tutor
from backend.demo.wire import Exchange
from backend.demo.words import pieces

MODELS = ("tutor-small", "tutor-large")

# Shares of the world's latency: with its 3 s the first piece comes after 0.9 s, then some 30 a second.
FIRST_PIECE = 0.3
NEXT_PIECE = 1 / 90

_STREAM = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


class Model:
    """Streams answers; with `stays_open` it never closes a stream, as the older of the two real ones does."""

    def __init__(self, latency: Latency, stays_open: bool) -> None:
        self._latency = latency
        self._stays_open = stays_open
        self._tutor = Tutor.taught()
        self._active = MODELS[0]
        self._streams = 0

    def __repr__(self) -> str:
        return f"<Model {self._active} {self._streams} streams, {self._tutor!r}>"

    def routes(self) -> Routes:
        return {
            ("POST", "/chat/stream"): self.chat,
            ("POST", "/activate_model"): self.activate,
            ("GET", "/health"): self.health,
            ("GET", "/stats"): self.stats,
        }

    async def chat(self, exchange: Exchange) -> Answer:
        try:
            fields = await exchange.read_object()
        except ValueError:
            return _refused("the body is not a JSON object")
        missing = [name for name in ("user_id", "session_id", "input") if fields.get(name) in (None, "")]
        if missing:
            return _refused(f"missing: {', '.join(missing)}")
        text = fields["input"]
        if not isinstance(text, str) or not text.strip():
            return _refused("input is a text")
        if fields.get("model") not in (None, *MODELS):
            return _refused(f"no such model: {fields['model']}")
        # The real one keeps its memory by this alone, whoever asks.
        answer = self._tutor.answer(text, str(fields["session_id"]))
        return Answer(headers=_STREAM, body=self._events(pieces(answer)))

    async def activate(self, exchange: Exchange) -> Answer:
        try:
            name = (await exchange.read_object()).get("model")
        except ValueError:
            return _refused("the body is not a JSON object")
        if name not in MODELS:
            return _refused(f"model is one of {', '.join(MODELS)}")
        await self._latency.wait()
        self._active = name
        return as_json({"message": f"{name} is active"})

    async def health(self, exchange: Exchange) -> Answer:
        return as_json({"status": "healthy", "model": self._active})

    async def stats(self, exchange: Exchange) -> Answer:
        return as_json({"active_streams": self._streams, "conversations": self._tutor.conversations})

    async def _events(self, made: list[str]) -> AsyncGenerator[bytes, None]:
        self._streams += 1
        clock = asyncio.get_running_loop().time
        asked = due = clock()
        first = 0.0
        try:
            for number, piece in enumerate(made):
                due += self._latency.seconds * (NEXT_PIECE if number else FIRST_PIECE)
                await asyncio.sleep(due - clock())
                first = first or clock() - asked
                yield _event(chunk=piece, status="streaming", timestamp=time.time())
            yield _event(status="finished", timestamp=time.time(), total_time=clock() - asked, ttft=first)
            if self._stays_open:
                await asyncio.Event().wait()
        finally:
            self._streams -= 1


def _event(**fields: object) -> bytes:
    return b"data: %b\n\n" % json.dumps(fields, ensure_ascii=False).encode()


def _refused(reason: str) -> Answer:
    return as_json({"error": reason}, 400)
