"""Bodies on their way: objects with `read` and `aclose`, never generators.

A generator that was never started does not run its `finally`; an object with `aclose` can always be released.
"""

import zlib
from collections.abc import Awaitable
from time import perf_counter
from typing import Protocol, TypeVar, runtime_checkable

from backend.errors import TooLarge, UploadStalled, UpstreamGarbage
from backend.services.deadline import Deadline
from backend.services.trail import TRAIL

T = TypeVar("T")

# A body that is read whole before anything else happens: a form, JSON, a small upload.
SMALL_BODY_SECONDS = 30.0


@runtime_checkable
class ByteStream(Protocol):
    """A body that is pulled chunk by chunk; `read` returns b"" at its end."""

    async def read(self) -> bytes: ...

    async def aclose(self) -> None: ...


class LimitedStream:
    """Counts a body while it passes and breaks it off at the limit.

    Raises TooLarge from `read` as soon as one byte more than `limit` bytes arrived.
    """

    def __init__(self, source: ByteStream, limit: int) -> None:
        self._source = source
        self._limit = limit
        self.count = 0
        self.started = False

    async def read(self) -> bytes:
        self.started = True
        chunk = await self._source.read()
        self.count += len(chunk)
        if self.count > self._limit:
            raise TooLarge(f"The request body is larger than the {_spoken(self._limit)} allowed here.")
        return chunk

    async def aclose(self) -> None:
        await self._source.aclose()


def check_length(length: int | None, limit: int) -> None:
    """Refuse a declared body length over the limit before a byte of it is read."""
    if length is not None and length > limit:
        raise TooLarge(f"The request body is larger than the {_spoken(limit)} allowed here.")


async def in_time(reading: Awaitable[T], seconds: float = SMALL_BODY_SECONDS) -> T:
    """Wait for a client's small body, but not for ever. Raises UploadStalled."""
    deadline = Deadline()
    began = perf_counter()
    try:
        return await deadline.within(reading, deadline.now() + seconds)
    except TimeoutError:
        raise UploadStalled from None
    finally:
        deadline.close()
        TRAIL.get().reading += perf_counter() - began


async def read_whole(stream: ByteStream, limit: int) -> bytes:
    """Read a body of at most `limit` bytes into memory; raises TooLarge beyond."""
    limited = LimitedStream(stream, limit)
    chunks = []
    while chunk := await limited.read():
        chunks.append(chunk)
    return b"".join(chunks)


async def small_body(stream: ByteStream | None, limit: int) -> bytes:
    """Read a client's small body whole, in time. Raises TooLarge and UploadStalled."""
    return b"" if stream is None else await in_time(read_whole(stream, limit))


def unpacked(content: bytes, packing: str, limit: int) -> bytes:
    """Unpack an upstream's gzip or deflate. Raises UpstreamGarbage for what is neither, or over the limit."""
    if packing not in ("gzip", "deflate"):
        raise UpstreamGarbage
    unpacker = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)
    try:
        whole = unpacker.decompress(content, limit + 1)
    except zlib.error as exc:
        raise UpstreamGarbage from exc
    if len(whole) > limit or not unpacker.eof:
        raise UpstreamGarbage
    return whole


def _spoken(size: int) -> str:
    if size >= 1 << 20:
        return f"{size / (1 << 20):g} MB"
    return f"{size / 1024:g} KB" if size >= 1024 else f"{size} bytes"
