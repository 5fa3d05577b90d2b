"""Raw clients: they show bytes and ends of connections that an HTTP client would hide."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from backend.demo.world import World

WAIT_SECONDS = 5.0

PREVIEW = (
    b"POST /avatar/preview HTTP/1.1\r\nHost: demo\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 20\r\n\r\navatar_name=Ada+Demo"
)


@dataclass(frozen=True)
class Seen:
    """What came back, and whether the connection ended with a reset."""

    data: bytes
    reset: bool

    @property
    def head(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[0].lower()

    @property
    def body(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[2]


async def dial(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    return await asyncio.open_connection(parts.hostname, parts.port)


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        await writer.wait_closed()
    except ConnectionError:
        # The other end was first, which is what some of these tests are about.
        return


async def ask(url: str, target: str = "/health") -> Seen:
    """Send one GET and read until the other end closes."""
    reader, writer = await dial(url)
    data = bytearray()
    try:
        writer.write(f"GET {target} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(WAIT_SECONDS):
            while chunk := await reader.read(65536):
                data += chunk
    except ConnectionResetError:
        return Seen(bytes(data), reset=True)
    finally:
        await hang_up(writer)
    return Seen(bytes(data), reset=False)


async def until(true: Callable[[], bool], seconds: float = 1.0) -> None:
    """Return as soon as something holds; raise TimeoutError when it does not in time."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - the counters are plain numbers, with no event to wait for
            await asyncio.sleep(0.005)


def open_calls(world: World) -> int:
    return sum(world.ledger(service).open for service in ("catalogue", "manager", "instance"))
