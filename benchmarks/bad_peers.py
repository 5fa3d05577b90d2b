"""Peers that mean no good, or only stay long: what each kind says, and a crowd of one kind."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings

from benchmarks import echo, gateway
from benchmarks.calls import HANDSHAKES, Address
from benchmarks.processes import Failure
from benchmarks.stream import head

# Slow heads and idle connections are gone by then.
CLOSED_SECONDS = 15.0
UPLOAD_BYTES = 1_000_000
BEGUN_BYTES = 64 * 1024
# The most that one HTTP/2 frame holds by default.
FRAME_BYTES = 16 * 1024
PIPELINED = 50
STREAMS = 10
# Of a peer that reads nothing: so little fits on its side.
RECEIVE_BUFFER_BYTES = 4096
SILENT, EVENTS, LARGE = (gateway.SINK + path for path in ("/silent", "/events", "/large"))
PIECE, UPLOAD, SOCKET = (gateway.SINK + path for path in ("/piece", "/upload", "/socket"))


@dataclass(frozen=True)
class Visitor:
    """How to address a gateway: its authority, and the headers that let a call pass."""

    authority: str
    headers: Mapping[str, str]

    def request(self, target: str, method: str = "GET", size: int | None = None) -> bytes:
        return head(method, target, self.authority, self.headers, size)

    def handshake(self, target: str) -> bytes:
        """Ask for a WebSocket."""
        asked = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        asked["Sec-WebSocket-Key"] = echo.KEY.decode()
        return head("GET", target, self.authority, {**self.headers, **asked}, None)

    def streams(
        self,
        method: str,
        target: str,
        *,
        count: int = 1,
        body: bytes | None = None,
        window: int | None = None,
    ) -> bytes:
        """Open an HTTP/2 connection with streams on it; one with a body, also an empty one, does not end."""
        connection = H2Connection()
        if window is not None:
            connection.local_settings = Settings(
                client=True, initial_values={SettingCodes.INITIAL_WINDOW_SIZE: window}
            )
        connection.initiate_connection()
        pseudo = {":method": method, ":scheme": "http", ":authority": self.authority, ":path": target}
        fields = [*pseudo.items(), *((name.lower(), value) for name, value in self.headers.items())]
        for stream in range(1, 2 * count, 2):
            connection.send_headers(stream, fields, end_stream=body is None)
            if body:
                connection.send_data(stream, body)
        return connection.data_to_send()


@dataclass(frozen=True)
class Kind:
    """One way to be a burden; `says` is sent at once, `drips` a byte a second."""

    name: str
    title: str
    says: Callable[[Visitor], bytes]
    drips: bool = False
    reads: bool = True
    # How many calls to the upstream each holds open.
    calls: int = 0
    closed_by: float | None = None
    # Idle counts from the answer to what it said.
    answered: bool = False


KINDS: Sequence[Kind] = (
    Kind(
        "idle",
        "idle after a call",
        lambda to: to.request("/api/ping"),
        closed_by=CLOSED_SECONDS,
        answered=True,
    ),
    Kind("silent", "connects and says nothing", lambda to: b"", closed_by=CLOSED_SECONDS),
    Kind(
        "half-head", "half a request head", lambda to: to.request("/api/ping")[:-2], closed_by=CLOSED_SECONDS
    ),
    Kind(
        "dripping-head",
        "head, a byte a second",
        lambda to: to.request("/api/ping")[:-2] + b"X-More: ",
        drips=True,
        closed_by=CLOSED_SECONDS,
    ),
    Kind("garbage", "garbage", lambda to: bytes(range(256)) * 4, closed_by=CLOSED_SECONDS),
    Kind(
        "upload-stops",
        "upload that stops midway",
        lambda to: to.request(UPLOAD, "POST", UPLOAD_BYTES) + bytes(BEGUN_BYTES),
        calls=1,
    ),
    Kind(
        "upload-drips",
        "upload, a byte a second",
        lambda to: to.request(UPLOAD, "POST", UPLOAD_BYTES) + bytes(BEGUN_BYTES),
        drips=True,
        calls=1,
    ),
    Kind("never-reads", "never reads its 64 MiB", lambda to: to.request(LARGE), reads=False, calls=1),
    Kind("event-stream", "holds an event stream", lambda to: to.request(EVENTS), calls=1),
    Kind("idle-socket", "opens a WebSocket and says nothing", lambda to: to.handshake(SOCKET), calls=1),
    Kind("silent-upstream", "waits for a silent upstream", lambda to: to.request(SILENT), calls=1),
    Kind(
        "pipeliner",
        f"{PIPELINED} requests for 64 KiB, reads nothing",
        lambda to: to.request(PIECE) * PIPELINED,
        reads=False,
    ),
    Kind("h2-idle", "HTTP/2: idle", lambda to: to.streams("GET", "/", count=0), closed_by=CLOSED_SECONDS),
    Kind(
        "h2-half-preface",
        "HTTP/2: half a preface",
        lambda to: b"PRI * HTTP/2.0\r\n\r\nSM",
        closed_by=CLOSED_SECONDS,
    ),
    Kind("h2-window", "HTTP/2: window 0", lambda to: to.streams("GET", LARGE, window=0), calls=1),
    Kind(
        "h2-streams",
        f"HTTP/2: {STREAMS} streams without their bodies",
        lambda to: to.streams("POST", "/api/login", count=STREAMS, body=b""),
    ),
    Kind("h2-event-stream", "HTTP/2: holds an event stream", lambda to: to.streams("GET", EVENTS), calls=1),
    Kind("h2-silent-upstream", "HTTP/2: silent upstream", lambda to: to.streams("GET", SILENT), calls=1),
    Kind(
        "h2-upload-stops",
        "HTTP/2: upload that stops",
        lambda to: to.streams("POST", UPLOAD, body=bytes(FRAME_BYTES)),
        calls=1,
    ),
)
NAMED: Mapping[str, Kind] = {kind.name: kind for kind in KINDS}


class Peer(asyncio.Protocol):
    """One of a crowd: says its piece and then keeps to its kind."""

    def __init__(self, kind: Kind, says: bytes) -> None:
        self._kind = kind
        self._says = says
        self.began = time.monotonic()
        self.ended: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's derives from no class of asyncio
        if not self._kind.reads:
            self._transport.pause_reading()
        self._transport.write(self._says)

    def data_received(self, data: bytes) -> None:
        if self._kind.answered:
            self.began = time.monotonic()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = time.monotonic()

    @property
    def lasted(self) -> float | None:
        """Seconds until the gateway closed the connection; None while it stands."""
        return None if self.ended is None else self.ended - self.began

    def say(self, more: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(more)

    def leave(self) -> None:
        self._transport.abort()


@contextlib.asynccontextmanager
async def crowd(address: Address, kind: Kind, says: bytes, count: int) -> AsyncIterator[list[Peer]]:
    """Have so many peers of one kind until the block ends. Raises Failure when one cannot connect."""
    peers: list[Peer] = []
    dripping: asyncio.Task[None] | None = None
    try:
        while len(peers) < count:
            batch = min(HANDSHAKES, count - len(peers))
            peers += await asyncio.gather(*(_connected(address, kind, says) for _ in range(batch)))
        if kind.drips:
            dripping = asyncio.create_task(_drip(peers))
        yield peers
    finally:
        if dripping is not None:
            dripping.cancel()
        for peer in peers:
            peer.leave()


async def _connected(address: Address, kind: Kind, says: bytes) -> Peer:
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    if not kind.reads:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    try:
        await loop.sock_connect(sock, address)
        _, peer = await loop.create_connection(lambda: Peer(kind, says), sock=sock)
    except OSError as error:
        sock.close()
        raise Failure(f"no connection for a peer ({kind.name}): {error}") from error
    return peer


async def _drip(peers: Sequence[Peer]) -> None:
    while True:
        await asyncio.sleep(1)
        for peer in peers:
            peer.say(b"x")
