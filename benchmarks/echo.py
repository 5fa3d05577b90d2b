"""A WebSocket server that sends all messages back, `python -m benchmarks.echo PORT`, and who talks to it.

Frames are masked with a key of zeros, which is allowed and costs the load nothing: what is measured lies in
between.
"""

import asyncio
import contextlib
import math
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha1
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import uvloop
from websockets.speedups import apply_mask

from benchmarks.machine import allow_open_files
from benchmarks.processes import Failure, answering, free_port, running

MOST_CONNECTIONS = 8000
BACKLOG = 8192
BINARY, KEY_BYTES = 0x82, 4
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="


@contextlib.contextmanager
def served(folder: Path, core: int) -> Iterator[str]:
    """Run this upstream until the block ends; give the URL."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.echo", str(port)]
    with running("echo-upstream", command, core=core, folder=folder) as process:
        answering(process, f"http://127.0.0.1:{port}/")
        yield f"http://127.0.0.1:{port}"


def accepted(key: bytes) -> bytes:
    """Return the answer to a handshake with this key."""
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + b64encode(sha1(key + GUID, usedforsecurity=False).digest()) + b"\r\n\r\n"
    )


class Echo(asyncio.Protocol):
    """One client's connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._buffer = bytearray()
        self._open = False

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._open:
            self._shake()
        while self._open and self._echo():
            pass

    def _shake(self) -> None:
        head, end, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        if not end:
            return
        self._buffer[:] = rest
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if b"sec-websocket-key" not in fields:
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            return
        # Its case counts.
        key = next(line[19:] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
        self._transport.write(accepted(key))
        self._open = True

    def _echo(self) -> bool:
        buffer = self._buffer
        measured = _measure(buffer)
        if measured is None:
            return False
        start, size = measured
        if len(buffer) < start + size:
            return False
        head = bytes((buffer[0], buffer[1] & 0x7F)) + bytes(buffer[2 : start - KEY_BYTES])
        key = bytes(buffer[start - KEY_BYTES : start])
        payload = bytes(memoryview(buffer)[start : start + size])
        del buffer[: start + size]
        if any(key):  # of a gateway that masks by itself, which others need not pay for
            payload = apply_mask(payload, key)
        self._transport.writelines((head, payload))
        return True


def _measure(buffer: bytearray) -> tuple[int, int] | None:
    """Return where the payload begins and how long it is."""
    if len(buffer) < 2:
        return None
    size = buffer[1] & 0x7F
    wide = 0 if size < 126 else 2 if size == 126 else 8
    start = 2 + wide + KEY_BYTES
    if len(buffer) < start:
        return None
    return start, int.from_bytes(buffer[2 : 2 + wide]) if wide else size


def message(size: int) -> tuple[bytes, int]:
    """Return a binary message as a client sends it, and the length of the answer to it."""
    if size < 126:
        head, wide = bytes((BINARY, 0x80 | size)), 0
    elif size < 1 << 16:
        head, wide = bytes((BINARY, 0x80 | 126)) + size.to_bytes(2), 2
    else:
        head, wide = bytes((BINARY, 0x80 | 127)) + size.to_bytes(8), 8
    return head + bytes(KEY_BYTES) + bytes(size), 2 + wide + size


class Talker(asyncio.Protocol):
    """Says one message after another, each when the echo of the one before has come."""

    def __init__(self, handshake: bytes, said: bytes, answer_bytes: int) -> None:
        self._handshake = handshake
        self._said = said
        self._answer_bytes = answer_bytes
        self._missing = math.inf
        self._top = b""
        self.count = 0
        self.open: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._handshake)

    def data_received(self, data: bytes) -> None:
        if not self.open.done():
            self._top += data
            if b"\r\n\r\n" in self._top:
                good = self._top.startswith(b"HTTP/1.1 101")
                self.open.set_exception(Failure(repr(self._top[:200]))) if not good else self.open.set_result(
                    None
                )
            return
        self._missing -= len(data)
        if self._missing <= 0:
            self.count += 1
            self.say()

    def say(self) -> None:
        self._missing = self._answer_bytes
        self._transport.write(self._said)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.open.done():
            self.open.set_exception(Failure("the connection was closed"))

    def leave(self) -> None:
        self._transport.abort()


async def talking(url: str, target: str, headers: dict[str, str], count: int, size: int) -> list[Talker]:
    """Open WebSockets, some at a time. Raises Failure."""
    parts = urlsplit(url)
    lines = [f"GET {target} HTTP/1.1", f"Host: {parts.netloc}", "Connection: Upgrade", "Upgrade: websocket"]
    lines += ["Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {KEY.decode()}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    handshake = ("\r\n".join(lines) + "\r\n\r\n").encode()
    said, answer_bytes = message(size)
    loop = asyncio.get_running_loop()
    talkers: list[Talker] = []
    for start in range(0, count, 50):
        few = []
        for _ in range(min(50, count - start)):
            _, talker = await loop.create_connection(
                lambda: Talker(handshake, said, answer_bytes), parts.hostname or "", parts.port or 80
            )
            few.append(talker)
        async with asyncio.timeout(20):
            await asyncio.gather(*(talker.open for talker in few))
        talkers += few
    return talkers


async def rate(
    url: str, target: str, headers: dict[str, str], count: int, size: int, seconds: float
) -> float:
    """Return the messages a second that come back while so many talk."""
    talkers = await talking(url, target, headers, count, size)
    for talker in talkers:
        talker.say()
    await asyncio.sleep(0.3)
    before, began = sum(talker.count for talker in talkers), time.perf_counter()
    await asyncio.sleep(seconds)
    done = (sum(talker.count for talker in talkers) - before) / (time.perf_counter() - began)
    for talker in talkers:
        talker.leave()
    await asyncio.sleep(0.2)
    return done


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", port, backlog=BACKLOG)
    await server.serve_forever()


if __name__ == "__main__":
    allow_open_files(MOST_CONNECTIONS)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, contextlib.suppress(KeyboardInterrupt):
        runner.run(_serve(int(sys.argv[1])))
