"""Faults of event streams: what a chat model may do in the middle of its answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace

from backend.demo.answers import Answer
from backend.demo.wire import Exchange

Right = Callable[[], Awaitable[Answer]]
Fault = Callable[[Exchange, Right], Awaitable[None]]
Changed = Callable[[AsyncGenerator[bytes, None]], AsyncGenerator[bytes, None]]

# What an upstream may let slip: a gateway's own answer must contain none of it.
LEAK = "Traceback (most recent call last): /srv/secret/path/live.py line 41, http://10.1.2.3:8606"
# So many events are right before something goes wrong.
EVENTS_BEFORE = 5
# Between the two halves of an event: long enough that they are read apart.
HALF_SECONDS = 0.02
# Of an answer without end, so that a whole one is never kept.
EVENTS_REPEATED = 50


async def first_pieces(answer: Answer, most: int) -> list[bytes]:
    """The begin of a body, which is then left."""
    found: list[bytes] = []
    async with aclosing(answer.pieces()) as pieces:
        async for piece in pieces:
            found.append(piece)
            if len(found) == most:
                break
    return found


def _changing(change: Changed) -> Fault:
    async def fault(exchange: Exchange, right: Right) -> None:
        answer = await right()
        await exchange.send(replace(answer, body=_closing(answer.pieces(), change), length=None))

    return fault


async def _closing(pieces: AsyncGenerator[bytes, None], change: Changed) -> AsyncGenerator[bytes, None]:
    async with aclosing(pieces), aclosing(change(pieces)) as changed:
        async for piece in changed:
            yield piece


def _midway(then: Changed) -> Changed:
    """Some right events, then what `then` makes of the others."""

    async def changed(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        for _ in range(EVENTS_BEFORE):
            piece = await anext(pieces, None)
            if piece is None:
                break
            yield piece
        async with aclosing(then(pieces)) as rest:
            async for piece in rest:
                yield piece

    return changed


async def _silence(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    await asyncio.Event().wait()
    yield b""


async def _error(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    yield b"data: %b\n\n" % json.dumps({"status": "error", "error": LEAK}).encode()


async def _nothing(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    return
    yield b""


async def _garbage(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    yield b'data: {"chunk": "\xff\xfe, "status": strea\n\n'
    async for piece in pieces:
        yield piece


async def _halved(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async for piece in pieces:
        # Of three bytes for a Chinese character the cut may leave one.
        middle = max(1, len(piece) // 2)
        yield piece[:middle]
        await asyncio.sleep(HALF_SECONDS)
        yield piece[middle:]


async def _without_blank_lines(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async for piece in pieces:
        yield piece.removesuffix(b"\n\n") + b"\n"


async def _with_carriage_returns(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async for piece in pieces:
        yield piece.replace(b"\n", b"\r\n")


async def _without_end(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    repeated: list[bytes] = []
    held: bytes | None = None
    async for piece in pieces:
        if held is not None:
            repeated = [*repeated, held][-EVENTS_REPEATED:]
            yield held
        held = piece
    # What is held now would say that it has finished.
    while True:
        for piece in repeated or [b": nothing yet\n\n"]:
            await asyncio.sleep(HALF_SECONDS)
            yield piece


async def _held_open(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async for piece in pieces:
        yield piece
    await asyncio.Event().wait()


async def _reset_midway(exchange: Exchange, right: Right) -> None:
    answer = await right()
    await exchange.start(answer, size=None)
    for piece in await first_pieces(answer, EVENTS_BEFORE):
        await exchange.write(piece)
    await asyncio.sleep(HALF_SECONDS)
    exchange.reset()


EVENT_FAULTS: dict[str, Fault] = {
    "stream-stall": _changing(_midway(_silence)),
    "stream-error": _changing(_midway(_error)),
    "stream-error-first": _changing(_error),
    "stream-ends": _changing(_midway(_nothing)),
    "stream-reset": _reset_midway,
    "stream-garbage": _changing(_midway(_garbage)),
    "stream-split": _changing(_halved),
    "stream-no-blank": _changing(_without_blank_lines),
    "stream-crlf": _changing(_with_carriage_returns),
    "stream-endless": _changing(_without_end),
    "stream-open": _changing(_held_open),
}
