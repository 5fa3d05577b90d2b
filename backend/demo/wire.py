"""HTTP/1.1 on sockets: asyncio moves the bytes, h11 frames them, one task serves each connection."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import parse_qsl, unquote

import h11

from backend.demo.answers import Answer

logger = logging.getLogger(__name__)

# Reading stops above this much unread body, so an upload costs memory by the connection, not by its size.
READ_AHEAD_BYTES = 64 * 1024
# A JSON call of these services is a few kilobytes (an SDP offer is the longest).
READ_LIMIT_BYTES = 1024 * 1024
# Longer than the pause a pooled client makes between two calls, so that it is the one who closes.
IDLE_SECONDS = 75.0
# A load run connects a thousand clients in the same instant.
BACKLOG = 4096

Serve = Callable[["Exchange"], Awaitable[None]]


class BodyTooLarge(ValueError):
    """A body that is read as a whole is longer than anybody would send."""


class Exchange:
    """One request and the means to answer it."""

    def __init__(self, connection: Connection, request: h11.Request) -> None:
        self._connection = connection
        self.method = request.method.decode("ascii")
        self.target = request.target.decode("latin-1")
        self.path, _, self._query = self.target.partition("?")
        self.headers: list[tuple[bytes, bytes]] = request.headers.raw_items()
        self.abandoned = False

    def __repr__(self) -> str:
        return f"<Exchange {self.method} {self.target}{' abandoned' if self.abandoned else ''}>"

    @property
    def peer(self) -> str:
        return self._connection.peer

    @property
    def tail(self) -> str:
        """The last segment of the path, decoded."""
        return unquote(self.path.rpartition("/")[2])

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(self._query))

    def header(self, name: bytes) -> bytes:
        """The first value of a header, empty when it is missing."""
        return next((value for key, value in self.headers if key.lower() == name), b"")

    async def body(self) -> AsyncIterator[bytes]:
        await self._connection.invite_body()
        while isinstance(event := await self._connection.receive(), h11.Data):
            yield bytes(event.data)

    async def read(self) -> bytes:
        """Read the whole body; raise BodyTooLarge above READ_LIMIT_BYTES."""
        body = bytearray()
        async for chunk in self.body():
            body += chunk
            if len(body) > READ_LIMIT_BYTES:
                raise BodyTooLarge(f"more than {READ_LIMIT_BYTES} bytes")
        return bytes(body)

    async def read_object(self) -> dict[str, Any]:
        """Read a JSON object; raise ValueError for anything else."""
        value = json.loads(await self.read())
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
        return value

    async def drain(self) -> None:
        """Read what is left of the request and forget it."""
        await self._connection.drain()

    async def send(self, answer: Answer) -> None:
        await self._connection.send(answer, bodiless=self.method == "HEAD")

    async def start(self, answer: Answer, size: int | None) -> None:
        """Send the head alone, declaring a body of `size` bytes, or of chunks when it is None."""
        await self._connection.start(answer, size)

    async def write(self, data: bytes) -> None:
        """Send a piece of the body after `start`."""
        await self._connection.transmit(h11.Data(data=data))

    async def write_raw(self, data: bytes) -> None:
        """Send bytes as they are, HTTP or not."""
        await self._connection.write(data)

    def close(self) -> None:
        self._connection.close()

    def reset(self) -> None:
        self._connection.reset()


class Connection(asyncio.Protocol):
    """The server's end of one client connection."""

    def __init__(self, serve: Serve, connections: set[Connection]) -> None:
        self._serve = serve
        self._connections = connections
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=READ_AHEAD_BYTES)
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._unread = 0
        self._closing = False
        self._gone = False
        self._lost = False
        self._exchange: Exchange | None = None

    def __repr__(self) -> str:
        return f"<Connection {self.peer} {self._exchange or 'idle'}>"

    @property
    def peer(self) -> str:
        address = self._transport.get_extra_info("peername")
        # A client that left before it was accepted has no address any more.
        return f"{address[0]}:{address[1]}" if address else "gone"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._connections.add(self)
        self.task = asyncio.get_running_loop().create_task(self._converse())
        self.task.add_done_callback(self._finished)

    def data_received(self, data: bytes) -> None:
        self._h11.receive_data(data)
        self._unread += len(data)
        if self._unread > READ_AHEAD_BYTES:
            self._transport.pause_reading()
        self._arrived.set()

    def eof_received(self) -> None:
        self._leave()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._leave()
        self._forget()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def receive(self) -> object:
        """Return the next h11 event of the request."""
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            self._arrived.clear()
            self._resume_reading()
            await self._arrived.wait()
        if isinstance(event, h11.EndOfMessage):
            # Only a socket that is read tells that the client has gone.
            self._resume_reading()
        return event

    async def invite_body(self) -> None:
        if self._h11.they_are_waiting_for_100_continue:
            await self.transmit(h11.InformationalResponse(status_code=100, headers=[]))

    async def drain(self) -> None:
        await self.invite_body()
        while self._h11.their_state is h11.SEND_BODY:
            await self.receive()

    async def send(self, answer: Answer, bodiless: bool) -> None:
        if isinstance(answer.body, bytes):
            whole = [h11.Data(data=answer.body)] if answer.body and not bodiless else []
            await self.transmit(self._head(answer, answer.size), *whole, h11.EndOfMessage())
            return
        async with aclosing(answer.body) as chunks:
            await self.start(answer, answer.size)
            async for chunk in chunks:
                await self.transmit(h11.Data(data=chunk))
        await self.transmit(h11.EndOfMessage())

    async def start(self, answer: Answer, size: int | None) -> None:
        await self.transmit(self._head(answer, size))

    async def transmit(self, *events: h11.Event) -> None:
        await self.write(b"".join(self._h11.send(event) or b"" for event in events))

    async def write(self, data: bytes) -> None:
        if data:
            self._transport.write(data)
        await self._writable.wait()

    def close(self) -> None:
        self._closing = True
        self._transport.close()

    def reset(self) -> None:
        """End the connection with RST, losing what the client has not read."""
        self._closing = True
        linger = struct.pack("ii", 1, 0)
        if not self._transport.is_closing():
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._transport.abort()

    async def _converse(self) -> None:
        try:
            while await self._next_exchange():
                self._h11.start_next_cycle()
            self.close()
        except TimeoutError:
            self.close()
        except h11.RemoteProtocolError as error:
            self._reject(error)
        except Exception:
            logger.exception("%r failed", self)
            self.reset()

    async def _next_exchange(self) -> bool:
        """Serve one request; tell whether the connection can carry another."""
        async with asyncio.timeout(IDLE_SECONDS):
            request = await self.receive()
        if not isinstance(request, h11.Request):
            return False
        self._exchange = Exchange(self, request)
        await self._serve(self._exchange)
        self._exchange = None
        if self._closing:
            return False
        if self._h11.our_state is h11.DONE:
            await self.drain()
        return self._h11.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}

    def _reject(self, error: h11.RemoteProtocolError) -> None:
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            head = h11.Response(status_code=error.error_status_hint, headers=[(b"connection", b"close")])
            self._transport.write(self._h11.send(head) or b"")
        self.close()

    @staticmethod
    def _head(answer: Answer, size: int | None) -> h11.Response:
        framing = [] if size is None else [(b"content-length", b"%d" % size)]
        reason = HTTPStatus(answer.status).phrase
        return h11.Response(status_code=answer.status, headers=[*answer.headers, *framing], reason=reason)

    def _resume_reading(self) -> None:
        self._unread = 0
        self._transport.resume_reading()

    def _leave(self) -> None:
        if self._gone:
            return
        self._gone = True
        if self._exchange is not None and not self._closing:
            self._exchange.abandoned = True
        self.task.cancel()
        self._transport.abort()

    def _finished(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self._transport.abort()
        self._forget()

    def _forget(self) -> None:
        if self._lost and self.task.done():
            self._connections.discard(self)


class Listener:
    """A port that accepts connections, or is held and refuses them."""

    def __init__(self, host: str, port: int, serve: Serve) -> None:
        self._host = host
        self._serve = serve
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._socket = self._bind(port)
        self.port: int = self._socket.getsockname()[1]

    def __repr__(self) -> str:
        state = "refusing" if self._server is None else f"{len(self._connections)} connections"
        return f"<Listener {self.url} {state}>"

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}"

    async def admit(self) -> None:
        """Accept connections; raise OSError when the port is taken."""
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(self._connection, sock=self._socket, backlog=BACKLOG)

    async def refuse(self) -> None:
        """Refuse connections and reset those there are, but keep the port from others."""
        if self._server is not None:
            await self._stop(self._server)
            self._socket = self._bind(self.port)

    async def close(self) -> None:
        if self._server is not None:
            await self._stop(self._server)
        self._socket.close()

    def _connection(self) -> Connection:
        return Connection(self._serve, self._connections)

    async def _stop(self, server: asyncio.Server) -> None:
        self._server = None
        server.close()
        connections = list(self._connections)
        for connection in connections:
            connection.reset()
            connection.task.cancel()
        await asyncio.gather(*(connection.task for connection in connections), return_exceptions=True)

    def _bind(self, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        # asyncio sets TCP_NODELAY only where the protocol is named.
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((self._host, port))
        except OSError:
            bound.close()
            raise
        return bound
