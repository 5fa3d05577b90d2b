"""A door to HTTP/2 peers, and frames that no library would send."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import hpack
import pytest_asyncio

from backend.services.http2 import frames

from .http2_peer import Http2Peer, Script, Stream
from .upstream import HTTP2, Door, client_of

MEGABYTE = 1 << 20
PATIENCE = 10.0
OK = [(b":status", b"200")]


@pytest_asyncio.fixture
async def door() -> AsyncIterator[Door]:
    async with client_of(HTTP2) as client:
        yield Door("open", client)


@pytest_asyncio.fixture
async def start() -> AsyncIterator[Callable]:
    async with AsyncExitStack() as stack:

        async def started(script: Script, **more: object) -> Http2Peer:
            return await stack.enter_async_context(Http2Peer(script, **more))

        yield started


async def echo(stream: Stream) -> None:
    await stream.reply(await stream.body())


async def silent(stream: Stream) -> None:
    await stream.client_left()


def head(number: int, *fields: tuple[bytes, bytes], end: bool = False) -> bytes:
    """An answer's head that no library would send; literal fields leave the peer's own table alone."""
    block = b"".join(literal(name, value) for name, value in fields)
    return frames.headers(number, block, frames.END_STREAM if end else 0, 16_384)


def literal(name: bytes, value: bytes) -> bytes:
    return b"\x00" + sized(name) + sized(value)


def sized(text: bytes) -> bytes:
    return bytes(hpack.hpack.encode_integer(len(text), 7)) + text


def data(number: int, content: bytes, flags: int = 0) -> bytes:
    return frames.frame(frames.DATA, flags, number, content)
