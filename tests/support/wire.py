"""A client that says exactly what a test writes, and shows exactly what came back."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

Pair = tuple[bytes, bytes]


@dataclass
class Reply:
    """An answer as it arrived: names in lower case, order kept; `complete` by its own framing."""

    status: int
    headers: list[Pair]
    body: bytes = b""
    complete: bool = True

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]

    def get(self, name: bytes) -> bytes | None:
        return next(iter(self.all(name)), None)


@dataclass
class Caller:
    """One connection to a gateway."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    informed: list[int] = field(default_factory=list)

    async def say(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
        await self.writer.drain()

    async def ask(
        self, target: bytes, *headers: Pair, method: bytes = b"GET", body: bytes | None = None
    ) -> None:
        """Send a request; a body goes with its Content-Length unless `headers` frame it."""
        lines = [method + b" " + target + b" HTTP/1.1"]
        names = {name.lower() for name, _ in headers}
        if b"host" not in names:
            lines.append(b"Host: gateway.test")
        lines += [name + b": " + value for name, value in headers]
        if body is not None and not names & {b"content-length", b"transfer-encoding"}:
            lines.append(b"Content-Length: %d" % len(body))
        await self.say(b"\r\n".join(lines) + b"\r\n\r\n", body or b"")

    async def head(self) -> Reply:
        """Read one final answer's head; statuses of interim ones are kept in `informed`."""
        while True:
            raw = await self.reader.readuntil(b"\r\n\r\n")
            line, *lines = raw[:-4].split(b"\r\n")
            pairs = [item.split(b":", 1) for item in lines]
            reply = Reply(int(line.split(b" ")[1]), [(n.lower(), v.strip()) for n, v in pairs])
            if reply.status >= 200:
                return reply
            self.informed.append(reply.status)

    async def reply(self, method: bytes = b"GET") -> Reply:
        """Read one whole answer by its framing."""
        reply = await self.head()
        if method == b"HEAD" or reply.status in (204, 304):
            return reply
        try:
            if (length := reply.get(b"content-length")) is not None:
                reply.body = await self.reader.readexactly(int(length))
            elif reply.get(b"transfer-encoding") == b"chunked":
                while chunk := await self.chunk():
                    reply.body += chunk
            else:
                reply.body = await self.reader.read(-1)
        except asyncio.IncompleteReadError as exc:
            reply.body += exc.partial
            reply.complete = False
        except ConnectionError:
            reply.complete = False
        return reply

    async def chunk(self) -> bytes:
        """Read one chunk of a chunked answer, b"" at its end."""
        line = await self.reader.readuntil(b"\r\n")
        content = await self.reader.readexactly(int(line, 16))
        await self.reader.readexactly(2)
        return content

    def reset(self) -> None:
        """Leave with RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def leave(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def calling(
    port: int, *, receive_buffer: int | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Caller]:
    """Hold a connection; a small `receive_buffer` in bytes makes a client that soon takes no more."""
    if receive_buffer is None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    else:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=receive_buffer)
    caller = Caller(reader, writer)
    try:
        async with asyncio.timeout(20):
            yield caller
    finally:
        await caller.leave()


async def call(
    port: int, target: bytes, *headers: Pair, method: bytes = b"GET", body: bytes | None = None
) -> Reply:
    """Make one call on a connection of its own."""
    async with calling(port) as caller:
        await caller.ask(target, *headers, method=method, body=body)
        return await caller.reply(method)


@contextlib.contextmanager
def unanswering() -> Iterator[int]:
    """Yield a loopback port that neither accepts nor refuses: its backlog is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
