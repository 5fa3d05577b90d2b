"""An upstream with bad manners on demand that counts its calls: `python -m benchmarks.crowd_upstream PORT`.

/silent is never answered, /events never ends, /socket is a WebSocket that says nothing, /large is 64 MiB,
/piece 64 KiB, a POST is answered when its body has arrived, everything else at once. /count tells how many
connections and calls are open.
"""

import asyncio
import contextlib
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import uvloop

from benchmarks import echo
from benchmarks.machine import allow_open_files
from benchmarks.processes import answering, free_port, running

BACKLOG = 8192
MOST_CONNECTIONS = 8000
SLICE = bytes(64 * 1024)
LARGE_SLICES = 1024
# So little is on the way to a gateway that does not read on.
SEND_BUFFER_BYTES = 64 * 1024
EVENT_SECONDS = 5.0
EVENT = b"9\r\ndata: 1\n\n\r\n"
EVENTS = b"HTTP/1.1 200 \r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + EVENT
# The reason phrase may be empty: RFC 9112, section 4.
HEAD = b"HTTP/1.1 200 \r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


@contextlib.contextmanager
def served(folder: Path, core: int) -> Iterator[str]:
    """Run this upstream until the block ends; give the URL."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.crowd_upstream", str(port)]
    with running(f"crowd-upstream-{port}", command, core=core, folder=folder) as process:
        answering(process, f"http://127.0.0.1:{port}/")
        yield f"http://127.0.0.1:{port}"


@dataclass
class Count:
    """What is open at this moment."""

    connections: int = 0
    calls: int = 0


class Connection(asyncio.Protocol):
    """One client; a request's head is kept until it is whole, its body is never kept."""

    def __init__(self, count: Count) -> None:
        self._count = count
        self._head = b""
        self._missing = 0
        self._slices = 0
        self._busy = False
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's derives from no class of asyncio
        sock: socket.socket = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._count.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._count.connections -= 1
        self._done()

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._arrived(len(data))
            return
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if end:
            self._head = b""
            self._busy = True
            self._count.calls += 1
            self._begin(head, rest)

    def _begin(self, head: bytes, rest: bytes) -> None:
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        match head.split(b" ", 2)[1]:
            case b"/silent":
                pass
            case b"/events":
                self._transport.write(EVENTS)
                self._again()
            case b"/socket" if key := re.search(rb"\r\nsec-websocket-key: *(\S+)", head, re.IGNORECASE):
                self._transport.write(echo.accepted(key[1]))
            case b"/large":
                self._slices = LARGE_SLICES
                self._transport.write(HEAD % (LARGE_SLICES * len(SLICE)))
                self._write_slices()
            case b"/piece":
                self._answer(SLICE)
            case b"/count":
                # The asking connection and its call are none of the gateway's.
                open_now = (self._count.connections - 1, self._count.calls - 1)
                self._answer(b'{"connections":%d,"calls":%d}' % open_now)
            case _ if head.startswith(b"POST"):
                self._missing = int(length[1]) if length else sys.maxsize
                self._arrived(len(rest))
            case _:
                self._answer(b"{}")

    def _arrived(self, size: int) -> None:
        self._missing -= size
        if self._missing <= 0:
            self._missing = 0
            self._answer(b"{}")

    def _answer(self, body: bytes) -> None:
        self._transport.write(HEAD % len(body) + body)
        self._done()

    def _done(self) -> None:
        self._count.calls -= self._busy
        self._busy = False

    def _again(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(EVENT)
            asyncio.get_running_loop().call_later(EVENT_SECONDS, self._again)

    def _write_slices(self) -> None:
        while self._slices and not self._paused:
            self._slices -= 1
            self._transport.write(SLICE)
        if not self._slices:
            self._done()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._busy:
            self._write_slices()


async def serve(port: int) -> None:
    count = Count()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(count), "127.0.0.1", port, backlog=BACKLOG)
    await server.serve_forever()


if __name__ == "__main__":
    allow_open_files(MOST_CONNECTIONS)
    uvloop.run(serve(int(sys.argv[1])))
