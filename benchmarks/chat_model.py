"""A chat model that only talks: `python -m benchmarks.chat_model PORT`.

`input` of a question says how: so many events, so many of them a second, 0 for as fast as they go. Each
event's text is the moment it was sent, by the clock that all processes of a machine share.
"""

import asyncio
import contextlib
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import uvloop

from benchmarks.machine import allow_open_files
from benchmarks.processes import answering, free_port, running

BACKLOG = 4096
MOST_CONNECTIONS = 4000
TICK_SECONDS = 0.001
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ALIVE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
# As fast as they go, yet as a model writes: each event by itself.
FAST_AT_ONCE = 20


@contextlib.contextmanager
def served(folder: Path, core: int) -> Iterator[str]:
    """Run this model until the block ends; give the URL."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.chat_model", str(port)]
    with running("chat-model", command, core=core, folder=folder) as process:
        answering(process, f"http://127.0.0.1:{port}/")
        yield f"http://127.0.0.1:{port}"


class Connection(asyncio.Protocol):
    """One question and its answer."""

    def __init__(self) -> None:
        self._received = b""
        self._left = 0
        self._apart = 0.0
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's derives from no class of asyncio

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        if not end or (length is not None and len(body) < int(length[1])):
            return
        self._received = b""
        if not head.startswith(b"POST "):
            self._transport.write(ALIVE)
            return
        events, rate = json.loads(body)["input"].split()
        self._left, self._apart = int(events), 1 / float(rate) if float(rate) else 0.0
        self._due = time.monotonic()
        self._transport.write(HEAD)
        self._go_on()

    def _go_on(self) -> None:
        if self._transport.is_closing():
            return
        now, sent = time.monotonic(), 0
        while self._left and (self._due <= now if self._apart else sent < FAST_AT_ONCE):
            self._send({"chunk": f"{now:.6f} ", "status": "streaming", "timestamp": now})
            self._left -= 1
            sent += 1
            self._due += self._apart
        if self._left:
            wait = max(TICK_SECONDS, self._due - now) if self._apart else 0
            asyncio.get_running_loop().call_later(wait, self._go_on)
            return
        self._send({"status": "finished", "timestamp": now, "total_time": 1.0, "ttft": 0.1})
        self._transport.write(b"0\r\n\r\n")

    def _send(self, event: dict[str, object]) -> None:
        raw = f"data: {json.dumps(event)}\n\n".encode()
        self._transport.write(b"%x\r\n%b\r\n" % (len(raw), raw))


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", port, backlog=BACKLOG)
    await server.serve_forever()


if __name__ == "__main__":
    allow_open_files(MOST_CONNECTIONS)
    uvloop.run(serve(int(sys.argv[1])))
