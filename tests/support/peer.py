"""A scripted upstream on a real socket: reads each request as raw bytes, answers with raw bytes."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

Script = Callable[["Exchange"], Awaitable[None]]

# The header of most answers.
JSON = (b"Content-Type", b"application/json")


@dataclass
class Head:
    """A request head as it arrived: names as sent, order kept."""

    method: bytes
    target: bytes
    version: bytes
    headers: list[tuple[bytes, bytes]]

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def get(self, name: bytes) -> bytes | None:
        return next(iter(self.all(name)), None)


@dataclass
class Exchange:
    """One request at the peer; the script reads and writes as it likes."""

    head: Head
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def body(self) -> bytes:
        """Read the request body by its framing."""
        if (length := self.head.get(b"content-length")) is not None:
            return await self.reader.readexactly(int(length))
        whole = b""
        if self.head.get(b"transfer-encoding"):
            while chunk := await self.chunk():
                whole += chunk
        return whole

    async def chunk(self) -> bytes:
        """Read one chunk of a chunked body, b"" at its end."""
        size = int((await self.reader.readline()).split(b";")[0], 16)
        content = await self.reader.readexactly(size)
        await self.reader.readexactly(2)
        return content

    async def send(self, raw: bytes) -> None:
        self.writer.write(raw)
        await self.writer.drain()

    async def reply(
        self, body: bytes = b"ok", *headers: tuple[bytes, bytes], status: bytes = b"200 OK"
    ) -> None:
        """Answer with a Content-Length."""
        lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body)]
        lines += [name + b": " + value for name, value in headers]
        await self.send(b"\r\n".join(lines) + b"\r\n\r\n" + body)

    async def client_left(self) -> None:
        """Wait until the other side closes."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass

    def reset(self) -> None:
        """Close with RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Peer:
    """Listens on a loopback port, a free one or the given, while `async with` lasts; runs `script` for each
    request.

    `heads` are the requests so far, `open` the connections that stand, `connections` all there were.
    """

    def __init__(self, script: Script, port: int = 0) -> None:
        self.script = script
        self.port = port
        self.heads: list[Head] = []
        self.bodies: list[bytes] = []
        self.open = 0
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Peer":
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port, backlog=2048)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.open += 1
        self.connections += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while not writer.is_closing():
                    head = _parse(await reader.readuntil(b"\r\n\r\n"))
                    self.heads.append(head)
                    await self.script(Exchange(head, reader, writer, len(self.heads)))
        except asyncio.CancelledError:
            pass
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.close()


def _parse(raw: bytes) -> Head:
    first, *lines = raw[:-4].split(b"\r\n")
    method, target, version = first.split(b" ", 2)
    pairs = [line.split(b":", 1) for line in lines]
    return Head(method, target, version, [(name, value.strip()) for name, value in pairs])


# By length, in chunks, and without a body at all.
FRAMINGS = (
    b"Content-Length: 2\r\n\r\nok",
    b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"Content-Length: 0\r\n\r\n",
)


async def echo(exchange: Exchange) -> None:
    await exchange.reply(await exchange.body())


async def silent(exchange: Exchange) -> None:
    await exchange.client_left()


async def in_turn(exchange: Exchange) -> None:
    """Answer in each framing, one after another."""
    await exchange.body()
    await exchange.send(b"HTTP/1.1 200 OK\r\n" + FRAMINGS[exchange.number % len(FRAMINGS)])


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until a condition holds; fail after `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for knows of no event
            await asyncio.sleep(0.005)


async def settled(value: Callable[[], int]) -> int:
    """Wait until a number has not moved for a while, and return it."""
    before, still = value(), 0
    async with asyncio.timeout(15):
        while still < 15:
            await asyncio.sleep(0.02)
            still = still + 1 if value() == before else 0
            before = value()
    return before
