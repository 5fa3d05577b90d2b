"""WebSockets for tests: a client that sends whatever a test writes, and servers on a scripted peer.

Frames are made and read here without any of the program's own code; the echo is wsproto's work.
"""

import asyncio
import base64
import contextlib
import hashlib
import ssl
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass

from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from tests.support.peer import Exchange
from tests.support.wire import Caller, Pair, Reply, calling

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
MASK = b"\x37\xfa\x21\x3d"  # of the examples in RFC 6455, section 5.7
HANDSHAKE: tuple[Pair, ...] = (
    (b"Connection", b"keep-alive, Upgrade"),
    (b"Upgrade", b"websocket"),
    (b"Sec-WebSocket-Version", b"13"),
    (b"Sec-WebSocket-Key", KEY),
)


@dataclass
class Frame:
    opcode: int
    payload: bytes
    final: bool = True
    masked: bool = False


def frame(
    opcode: int, payload: bytes = b"", *, final: bool = True, mask: bytes | None = MASK, reserved: int = 0
) -> bytes:
    """Return a frame, also one that no peer may send."""
    first = (0x80 if final else 0) | reserved << 4 | opcode
    bit, size = 0x80 if mask is not None else 0, len(payload)
    if size < 126:
        head = bytes((first, bit | size))
    elif size < 65536:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    return head + payload if mask is None else head + mask + _masked(payload, mask)


def _masked(payload: bytes, mask: bytes) -> bytes:
    whole = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload) ^ int.from_bytes(whole)).to_bytes(len(payload))


def close(code: int, reason: bytes = b"", *, mask: bytes | None = MASK) -> bytes:
    return frame(CLOSE, code.to_bytes(2) + reason, mask=mask)


class Socket:
    """One end of a WebSocket; `mask` is None at a server's end."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mask: bytes | None = MASK
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.mask = mask
        self.aside: list[Frame] = []  # control frames that came amid a message

    async def raw(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def send(self, opcode: int, payload: bytes = b"", *, final: bool = True) -> None:
        await self.raw(frame(opcode, payload, final=final, mask=self.mask))

    async def close(self, code: int, reason: bytes = b"") -> None:
        await self.raw(close(code, reason, mask=self.mask))

    async def frame(self) -> Frame:
        """Read one frame. Raises IncompleteReadError at the end of the connection."""
        first, second = await self.reader.readexactly(2)
        size = second & 0x7F
        if size >= 126:
            size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8))
        mask = await self.reader.readexactly(4) if second & 0x80 else None
        payload = await self.reader.readexactly(size)
        assert not first & 0x70
        content = payload if mask is None else _masked(payload, mask)
        return Frame(first & 0x0F, content, bool(first & 0x80), mask is not None)

    async def message(self) -> Frame:
        """Read one message, its fragments joined; control frames in between are skipped."""
        whole: Frame | None = None
        while True:
            frame = await self.frame()
            if frame.opcode == CLOSE:
                raise AssertionError(f"closed: {frame.payload!r}")
            if frame.opcode in (PING, PONG):
                continue
            if whole is None:
                assert frame.opcode != CONTINUATION
                whole = Frame(frame.opcode, b"", masked=frame.masked)
            else:
                assert frame.opcode == CONTINUATION
            whole.payload += frame.payload
            if frame.final:
                return whole

    async def ended(self) -> tuple[int | None, bytes]:
        """Return code and reason of the next Close frame, None where the connection ended without one.

        What comes before it is skipped.
        """
        try:
            while (frame := await self.frame()).opcode != CLOSE:
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            return None, b""
        return (int.from_bytes(frame.payload[:2]) if frame.payload else 1005), frame.payload[2:]

    async def gone(self) -> bool:
        """Wait until the other side closes the connection; what comes meanwhile is dropped."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass
        return True


@contextlib.asynccontextmanager
async def dialled(
    port: int,
    target: bytes = b"/m/socket",
    *headers: Pair,
    receive_buffer: int | None = None,
    with_it: bytes = b"",
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Socket]:
    """Open a WebSocket; the handshake has to succeed. `with_it` is sent before its answer is there."""
    async with calling(port, receive_buffer=receive_buffer, tls=tls) as caller:
        reply = await shaken(caller, target, *headers, with_it=with_it)
        assert reply.status == 101, (reply.status, reply.body)
        assert reply.get(b"sec-websocket-accept") == ACCEPT
        yield Socket(caller.reader, caller.writer)


async def shaken(caller: Caller, target: bytes = b"/m/socket", *headers: Pair, with_it: bytes = b"") -> Reply:
    """Ask for a WebSocket and return the answer, its body included where it has one."""
    names = {name.lower() for name, _ in headers}
    await caller.ask(target, *(pair for pair in HANDSHAKE if pair[0].lower() not in names), *headers)
    await caller.say(with_it)
    raw = await caller.reader.readuntil(b"\r\n\r\n")
    line, *lines = raw[:-4].split(b"\r\n")
    pairs = [item.split(b":", 1) for item in lines]
    reply = Reply(int(line.split(b" ")[1]), [(n.lower(), v.strip()) for n, v in pairs])
    if (length := reply.get(b"content-length")) is not None:
        reply.body = await caller.reader.readexactly(int(length))
    elif reply.get(b"transfer-encoding") == b"chunked":
        while chunk := await caller.chunk():
            reply.body += chunk
    return reply


async def asked(port: int, target: bytes = b"/m/socket", *headers: Pair) -> Reply:
    """Ask for a WebSocket on a connection of its own and return the answer."""
    async with calling(port) as caller:
        return await shaken(caller, target, *headers)


async def accepted(exchange: Exchange, *headers: Pair, with_it: bytes = b"") -> Socket:
    """Answer a handshake at a peer with 101, and send more in the same write."""
    key = exchange.head.get(b"sec-websocket-key") or b""
    guid = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key + guid, usedforsecurity=False).digest())
    lines = [b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade"]
    lines += [b"Sec-WebSocket-Accept: " + accept, *(name + b": " + value for name, value in headers)]
    await exchange.send(b"\r\n".join(lines) + b"\r\n\r\n" + with_it)
    return Socket(exchange.reader, exchange.writer, None)


async def echo(exchange: Exchange) -> None:
    """Send every message back, as wsproto reads it."""
    await accepted(exchange)
    connection = Connection(ConnectionType.SERVER)
    opcode: type[TextMessage] | type[BytesMessage]
    try:
        while data := await exchange.reader.read(1 << 16):
            connection.receive_data(data)
            for event in connection.events():
                match event:
                    case TextMessage():
                        opcode = TextMessage
                    case BytesMessage():
                        opcode = BytesMessage
                    case Ping():
                        await exchange.send(connection.send(event.response()))
                        continue
                    case CloseConnection():
                        await exchange.send(connection.send(event.response()))
                        return
                    case _:
                        continue
                await exchange.send(
                    connection.send(opcode(data=event.data, message_finished=event.message_finished))  # type: ignore[arg-type]
                )
    except (RemoteProtocolError, LocalProtocolError):
        return
    finally:
        exchange.writer.close()
