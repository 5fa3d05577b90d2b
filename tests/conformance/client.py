"""A client that sends any octets, and says what a server made of them."""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

import hpack

from backend.http2 import frames
from backend.http2.frames import Code, Setting


@dataclass(frozen=True)
class Target:
    """A server: where it listens, a path that answers GET with a short body, one that reads a JSON body."""

    host: str
    port: int
    tls: bool = False
    get: str = "/api/health"
    post: str = "/api/login"
    patience: float = 12.0


@dataclass
class Answer:
    """What has come back on one stream."""

    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> int:
        return next((int(value) for name, value in self.fields if name == b":status"), 0)


def name_of(code: int) -> str:
    return next((known.name for known in Code if known == code), hex(code))


class Client:
    """One connection; everything that came back is in `answers`, `settings`, `pings` and `goaway`."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.answers: dict[int, Answer] = {}
        self.settings: dict[int, int] | None = None
        self.acks = 0
        self.pings: list[bytes] = []
        self.windows: dict[int, int] = {}
        self.goaway: tuple[int, int, bytes] | None = None
        self.first: int | None = None
        self.closed = False
        self.decoder = hpack.Decoder()
        self._block = b""
        self._news = asyncio.Condition()

    async def __aenter__(self) -> "Client":
        context = None
        if self.target.tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
        self._reader, self.writer = await asyncio.open_connection(
            self.target.host, self.target.port, ssl=context
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        self.writer.transport.abort()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def answer(self, stream: int) -> Answer:
        return self.answers.setdefault(stream, Answer())

    async def send(self, *octets: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self.writer.write(b"".join(octets))
            await self.writer.drain()

    async def shake_hands(self, **settings: int) -> None:
        """Send the preface, take the server's, acknowledge it."""
        values = {Setting[name]: value for name, value in settings.items()}
        await self.send(frames.PREFACE, frames.settings(values))
        await self.until(lambda: self.settings is not None and self.acks > 0)
        await self.send(frames.frame(frames.SETTINGS, frames.ACK, 0))

    async def until(self, condition: Callable[[], bool]) -> bool:
        """Wait until something holds, or nothing more can come; tells whether it holds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.target.patience), self._news:
                await self._news.wait_for(lambda: condition() or self.closed)
        return condition()

    async def is_alive(self) -> bool:
        """Whether a PING still comes back."""
        mark = b"alive" + b"%03d" % len(self.pings)
        await self.send(frames.frame(frames.PING, 0, 0, mark))
        return await self.until(lambda: mark in self.pings)

    async def _read(self) -> None:
        try:
            while True:
                head = await self._reader.readexactly(frames.HEADER_BYTES)
                length = int.from_bytes(head[:3], "big")
                stream = frames.read_long(head, 5)
                self._take(head[3], head[4], stream, await self._reader.readexactly(length))
                async with self._news:
                    self._news.notify_all()
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            self.closed = True
            async with self._news:
                self._news.notify_all()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self.first is None:
            self.first = kind
        if kind in (frames.HEADERS, frames.CONTINUATION):
            self._block += payload
            if flags & frames.END_HEADERS:
                self.answer(stream).fields += [
                    (bytes(n), bytes(v)) for n, v in self.decoder.decode(self._block, raw=True)
                ]
                self._block = b""
        elif kind == frames.DATA:
            self.answer(stream).body += payload
        elif kind == frames.RST_STREAM:
            self.answer(stream).reset = int.from_bytes(payload, "big")
        elif kind == frames.SETTINGS and flags & frames.ACK:
            self.acks += 1
        elif kind == frames.SETTINGS:
            self.settings = dict(frames.read_settings(payload))
        elif kind == frames.PING and flags & frames.ACK:
            self.pings.append(payload)
        elif kind == frames.WINDOW_UPDATE:
            self.windows[stream] = self.windows.get(stream, 0) + frames.read_long(payload)
        elif kind == frames.GOAWAY:
            self.goaway = frames.read_long(payload), int.from_bytes(payload[4:8], "big"), payload[8:]
        if kind in (frames.HEADERS, frames.DATA) and flags & frames.END_STREAM:
            self.answer(stream).ended = True
