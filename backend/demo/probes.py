"""Routes the real services lack: they show what a gateway passes on, and how."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncGenerator

from backend.demo.answers import Answer, as_detail, as_json
from backend.demo.service import Routes
from backend.demo.wire import Exchange

BLOCK = bytes(range(256)) * 256
SSE_HEADERS = ((b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache"))


async def _bytes(exchange: Exchange) -> Answer:
    if not exchange.tail.isdecimal():
        return as_detail("expected a number of bytes", 422)
    size = int(exchange.tail)
    return Answer(headers=((b"content-type", b"application/octet-stream"),), body=_pattern(size), length=size)


async def _pattern(size: int) -> AsyncGenerator[bytes, None]:
    """Yield 0, 1, ... 255, 0, 1, ... up to `size` bytes."""
    for _ in range(size // len(BLOCK)):
        yield BLOCK
    yield BLOCK[: size % len(BLOCK)]


async def _sink(exchange: Exchange) -> Answer:
    size, sha256 = 0, hashlib.sha256()
    async for chunk in exchange.body():
        size += len(chunk)
        sha256.update(chunk)
    return as_json({"bytes": size, "sha256": sha256.hexdigest()})


async def _echo(exchange: Exchange) -> Answer:
    size = 0
    async for chunk in exchange.body():
        size += len(chunk)
    return as_json(
        {
            "method": exchange.method,
            "target": exchange.target,
            "headers": [
                [name.decode("latin-1"), value.decode("latin-1")] for name, value in exchange.headers
            ],
            "body_bytes": size,
            "peer": exchange.peer,
        }
    )


async def _cookie(exchange: Exchange) -> Answer:
    visitor = secrets.token_hex(8)
    cookie = f"visitor={visitor}; Path=/; HttpOnly".encode()
    return as_json({"visitor": visitor}, headers=((b"set-cookie", cookie),))


async def _stream(exchange: Exchange) -> Answer:
    try:
        events, interval = int(exchange.query.get("events", "10")), float(exchange.query.get("interval", "1"))
    except ValueError:
        return as_detail("events is a whole number, interval a number of seconds", 422)
    return Answer(headers=SSE_HEADERS, body=_events(events, interval))


async def _events(count: int, interval_seconds: float) -> AsyncGenerator[bytes, None]:
    for number in range(count):
        if number:
            await asyncio.sleep(interval_seconds)
        yield b'data: {"event": %d}\n\n' % number


PROBES: Routes = {
    ("GET", "/bytes/*"): _bytes,
    ("POST", "/sink"): _sink,
    ("GET", "/echo"): _echo,
    ("POST", "/echo"): _echo,
    ("GET", "/cookie"): _cookie,
    ("GET", "/stream"): _stream,
}
