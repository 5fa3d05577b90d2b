"""An upstream that only waits or counts: `python -m benchmarks.upstream PORT SECONDS [SPREAD]`.

GET /slow is answered after so many seconds, up to SPREAD more or less; other GETs at once, a POST when its
body has arrived.
"""

import asyncio
import contextlib
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import uvloop

from benchmarks.machine import allow_open_files
from benchmarks.processes import answering, free_port, running

BACKLOG = 8192
MOST_CONNECTIONS = 8000
# One for all connections: what arrives is counted before the next one reads.
BUFFER = bytearray(256 * 1024)
# The reason phrase may be empty: RFC 9112, section 4.
ANSWER = b"HTTP/1.1 %d \r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"


@contextlib.contextmanager
def served(folder: Path, core: int, seconds: float = 0.0, spread: float = 0.0) -> Iterator[str]:
    """Run this upstream until the block ends; give the URL."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.upstream", str(port), str(seconds), str(spread)]
    with running("waiting-upstream", command, core=core, folder=folder) as process:
        answering(process, f"http://127.0.0.1:{port}/")
        yield f"http://127.0.0.1:{port}"


class Connection(asyncio.BufferedProtocol):
    """One client; a request's head is kept until it is whole, its body is never kept."""

    def __init__(self, seconds: float, spread: float) -> None:
        self._seconds = seconds
        self._spread = spread
        self._head = b""
        self._missing = 0
        self._size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's derives from no class of asyncio

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(BUFFER)

    def buffer_updated(self, nbytes: int) -> None:
        if self._missing:
            self._count(nbytes)
            return
        self._head += BUFFER[:nbytes]
        end = self._head.find(b"\r\n\r\n")
        if end >= 0:
            head, rest = self._head[:end], len(self._head) - end - 4
            self._head = b""
            self._begin(head, rest)

    def _begin(self, head: bytes, rest: int) -> None:
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        if head.startswith(b"GET /slow"):
            seconds = self._seconds + random.uniform(-self._spread, self._spread)
            asyncio.get_running_loop().call_later(seconds, self._answer, 200)
        elif head.startswith(b"GET "):
            self._answer(200)
        elif length is None:
            self._answer(411)
        else:
            self._size = self._missing = int(length[1])
            self._count(rest)

    def _count(self, arrived: int) -> None:
        self._missing -= arrived
        if self._missing <= 0:
            self._missing = 0
            self._answer(200)

    def _answer(self, status: int) -> None:
        if not self._transport.is_closing():
            body = b'{"bytes":%d}' % self._size
            self._transport.write(ANSWER % (status, len(body), body))


async def serve(port: int, seconds: float, spread: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(seconds, spread), "127.0.0.1", port, backlog=BACKLOG)
    await server.serve_forever()


if __name__ == "__main__":
    allow_open_files(MOST_CONNECTIONS)
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]) if sys.argv[3:] else 0.0))
