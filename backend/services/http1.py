"""HTTP/1.1 connections to upstreams, of the gateway's own.

They exist for one promise that no client library kept at a price worth paying: a call that is given up
ends its connection at once, also while the upstream is still thinking (docs/decisions/0002-transport.md).
Parsing is llhttp's, by httptools, in its strict mode.
"""

import asyncio
import select
from collections import deque
from collections.abc import AsyncIterable, Callable, Sequence
from typing import cast

import httptools

from backend.errors import UpstreamBroken, UpstreamError, UpstreamGarbage
from backend.services.headers import Pair
from backend.services.request_framing import Body, Framed, request_head

# Read ahead of a slow client at most so much, and go on when so little is left.
HIGH_WATER_BYTES = 256 * 1024
LOW_WATER_BYTES = 64 * 1024
# Pieces smaller than this that wait are read as one, up to so much.
SMALL_PIECE_BYTES = 4 * 1024
JOINED_BYTES = 64 * 1024
# An answer's head with all interim ones, a chunk's extensions, the trailers: what brings no byte of the body.
# nginx allows 8 KiB for a head, Node 16 KiB, and a page of cookies fits many times.
MOST_HEAD_BYTES = 128 * 1024


class Connection(asyncio.Protocol):
    """One connection to an upstream; carries one exchange after another, never two.

    `reusable` is True between exchanges. What arrives then is nobody's answer, and ends the connection.
    """

    def __init__(self, on_idle: "Callable[[Connection], None]") -> None:
        self._loop = asyncio.get_running_loop()
        self._on_idle = on_idle
        self._transport: asyncio.Transport | None = None
        self._exchange: Answer | None = None
        self._writable: asyncio.Future[None] | None = None
        self._poll: select.poll | None = None
        self._paused = False

    @property
    def reusable(self) -> bool:
        return self._exchange is None and self._transport is not None and not self._transport.is_closing()

    @property
    def quiet(self) -> bool:
        """Whether nothing has arrived that the loop has not told of yet: another answer, or the end.

        One look, of a microsecond, before each use; without it such bytes would answer the next call.
        """
        if self._poll is None:
            if self._transport is None:
                return False
            self._poll = select.poll()
            self._poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not self._poll.poll(0)

    async def send(
        self,
        method: str,
        target: bytes,
        authority: bytes,
        headers: Sequence[Pair],
        body: Body,
        *,
        upgrade: bool = False,
    ) -> "Answer":
        """Send one request and return its answer once the head is there. Raises UpstreamBroken.

        With `upgrade` an answer may be 101, and then its connection can be taken.
        """
        head, length = request_head(method, target, authority, headers, body)
        if self._transport is None or not self.reusable:
            raise UpstreamBroken
        answer = self._exchange = Answer(self, method, self._loop.create_future(), upgrades=upgrade)
        if body is None or isinstance(body, bytes):
            self._transport.write(head + body if body else head)
        else:
            self._transport.write(head)
            answer.upload = self._loop.create_task(self._upload(answer, body, Framed(length)))
        try:
            await answer.head
        except BaseException:
            self.abort()
            await answer.end_upload()
            raise
        return answer

    async def _upload(self, answer: "Answer", body: AsyncIterable[bytes], framed: "Framed") -> None:
        """Write a streamed body; the answer may arrive meanwhile."""
        try:
            async for chunk in body:
                await self._write(framed.frame(chunk))
            await self._write(framed.end())
        except Exception as exc:
            # The body failed, or the upstream hung up: whoever waits for the answer gets the reason.
            answer.fail(exc)
            self.abort()
        else:
            answer.sent_whole = True
            answer.let_go_if_done()

    async def _write(self, content: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            raise UpstreamBroken
        if content:
            self._transport.write(content)
        if self._writable is not None:
            await self._writable

    def abort(self) -> None:
        """End the connection now, whatever is on its way."""
        if self._transport is not None:
            self._transport.abort()

    def hand_over(self) -> asyncio.Transport:
        """Give the connection to another protocol."""
        assert self._transport is not None  # noqa: S101 - narrows the type
        self._exchange = None
        return self._transport

    def finished(self, answer: "Answer", *, reusable: bool) -> None:
        """Take the connection back from an exchange that is over."""
        if self._exchange is not answer:
            return
        self._exchange = None
        if reusable and self.reusable:
            self.resume()  # it may end in the same moment in which it was too much
            self._on_idle(self)
        else:
            self.abort()

    def pause(self) -> None:
        if self._transport is not None and not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        if self._exchange is None:
            self.abort()
        else:
            self._exchange.feed(data)

    def eof_received(self) -> None:
        if self._exchange is not None:
            self._exchange.ended()

    def connection_lost(self, exc: Exception | None) -> None:
        self.resume_writing()
        if self._exchange is not None:
            self._exchange.lost(exc)

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    def __repr__(self) -> str:
        state = "idle" if self.reusable else "busy" if self._exchange is not None else "closed"
        return f"<Connection {state}>"


class Answer:
    """An upstream's answer as it is parsed; read by `read`, ended by `aclose`."""

    def __init__(
        self, connection: Connection, method: str, head: "asyncio.Future[None]", *, upgrades: bool = False
    ) -> None:
        self.status = 0
        self.headers: list[Pair] = []
        self.http_version = "HTTP/1.1"
        self.head = head
        self.upload: asyncio.Task[None] | None = None
        self.sent_whole = False
        self._connection = connection
        self._method = method
        self._upgrades = upgrades
        self._foreign: bytes | None = None  # what came after a switch of protocols
        self._parser = httptools.HttpResponseParser(self)
        self._barren_bytes = 0
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._paused = False
        self._complete = False
        self._surplus = False
        self._until_close = False
        self._stays_open = False
        self._failure: Exception | None = None
        self._more: asyncio.Future[None] | None = None

    def at_hand(self) -> bytes | None:
        """Return the next of a body that has arrived to its end, None where `read` may have to wait."""
        return self._next() if self._complete and self._chunks else None

    async def read(self) -> bytes:
        """Return the next bytes of the body as they arrived, b"" at its end. Raises UpstreamBroken."""
        while True:
            if self._chunks:
                return self._next()
            if self._failure is not None:
                raise self._failure
            if self._complete:
                return b""
            self._read_on()
            self._more = asyncio.get_running_loop().create_future()
            await self._more

    def take(self) -> tuple[asyncio.Transport, bytes]:
        """Return the connection of an answer of 101, not read any further, and what was read already."""
        transport = self._connection.hand_over()
        return transport, self._foreign or b""

    async def aclose(self) -> None:
        """End the connection, unless the answer was whole and the connection already serves another."""
        self._chunks.clear()  # a call that was given up may stay in its error's traceback for a while
        self._connection.finished(self, reusable=False)
        await self.end_upload()

    async def end_upload(self) -> None:
        if self.upload is not None and not self.upload.done():
            self.upload.cancel()
            await asyncio.wait({self.upload})

    def hold(self) -> None:
        """Leave what comes now with the kernel, until `read` finds nothing here."""
        if not self._paused and not self._complete:
            self._paused = True
            self._connection.pause()

    def _next(self) -> bytes:
        chunk = self._chunks.popleft()
        if self._chunks and len(chunk) < SMALL_PIECE_BYTES:
            pieces, size = [chunk], len(chunk)
            while self._chunks and size + len(self._chunks[0]) <= JOINED_BYTES:
                pieces.append(self._chunks.popleft())
                size += len(pieces[-1])
            chunk = b"".join(pieces)
        self._buffered -= len(chunk)
        if 0 < self._buffered <= LOW_WATER_BYTES:
            self._read_on()
        return chunk

    def _read_on(self) -> None:
        if self._paused:
            self._paused = False
            self._connection.resume()

    # What the connection tells.

    def feed(self, data: bytes) -> None:
        if self._foreign is not None:
            self._foreign += data  # at most what was on its way when reading stopped
            return
        self._barren_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            if self.status == 101 and isinstance(exc, httptools.HttpParserUpgrade):
                self._foreign = data[exc.args[0] :]
                self._connection.pause()
                return
            self._break(UpstreamBroken() if self.head.done() else UpstreamGarbage())
            return
        if self._complete:
            self.let_go_if_done()
        elif self._barren_bytes > MOST_HEAD_BYTES:
            self._break(UpstreamBroken() if self.head.done() else UpstreamGarbage())

    def ended(self) -> None:
        """The upstream sends no more: the end of a body without a length, a break of any other."""
        if self._until_close and not self._complete:
            self._finish()
            self.let_go_if_done()
        elif not self._complete:
            self._break(UpstreamBroken())

    def lost(self, exc: Exception | None) -> None:
        if exc is None:
            self.ended()
        elif not self._complete:
            self._break(UpstreamBroken())
        self._connection.finished(self, reusable=False)

    def fail(self, exc: Exception) -> None:
        if self._complete:
            return  # early, but whole
        self._failure = self._failure or exc
        if not self.head.done():
            self.head.set_exception(exc)
        self._wake()

    def _break(self, failure: UpstreamError) -> None:
        self.fail(failure)
        self._connection.abort()

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._complete:
            self._surplus = True  # a second answer that nobody asked for

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:  # later ones are trailers, or of a second answer that nobody asked for
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._complete:
            return
        if not 100 <= status < 600:
            raise UpstreamGarbage
        if status < 200 and not (status == 101 and self._upgrades):
            self.headers = []
            return
        self.status = status
        self.http_version = f"HTTP/{self._parser.get_http_version()}"
        names = {name for name, _ in self.headers}
        if b"transfer-encoding" in names and not self._only_chunked():
            raise UpstreamGarbage
        bodiless = self._method == "HEAD" or status in (101, 204, 304)
        self._until_close = not bodiless and not names & {b"content-length", b"transfer-encoding"}
        self._stays_open = not self._until_close and _stays_open(self.http_version, self.headers)
        if not self.head.done():
            self.head.set_result(None)
        if bodiless:
            self._finish()

    def _only_chunked(self) -> bool:
        """Tell whether the body is framed in the one way that can be taken off (RFC 9112, section 6.1)."""
        codings = [value for name, value in self.headers if name == b"transfer-encoding"]
        return [coding.lower() for coding in codings] == [b"chunked"] and self.http_version == "HTTP/1.1"

    def on_body(self, body: bytes) -> None:
        if self._complete:
            self._surplus = True
            return
        self._barren_bytes = 0
        self._chunks.append(body)
        self._buffered += len(body)
        if self._buffered > HIGH_WATER_BYTES and not self._paused:
            self._paused = True
            self._connection.pause()
        self._wake()

    def on_message_complete(self) -> None:
        if self.status and not self._until_close:
            self._finish()

    def _finish(self) -> None:
        if not self._complete:
            self._complete = True
            self._wake()

    def let_go_if_done(self) -> None:
        """Let the next exchange have the connection as soon as both directions are done."""
        if not self._complete or (self.upload is not None and not self.sent_whole):
            return
        self._connection.finished(self, reusable=self._stays_open and not self._surplus)

    def _wake(self) -> None:
        more, self._more = self._more, None
        if more is not None and not more.done():
            more.set_result(None)


def _stays_open(http_version: str, headers: Sequence[Pair]) -> bool:
    """Tell whether the upstream keeps the connection after this answer (RFC 9112, section 9.3)."""
    options = b",".join(value for name, value in headers if name == b"connection").lower()
    return b"close" not in options and (http_version != "HTTP/1.0" or b"keep-alive" in options)
