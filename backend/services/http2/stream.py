"""One call on an HTTP/2 connection: a request body on its way up, an answer on its way down."""

import asyncio
from collections.abc import AsyncIterable, Sequence
from typing import Protocol

from backend.errors import BadRequest, UpstreamBroken, UpstreamError, UpstreamGarbage, UpstreamRefused
from backend.services.headers import Pair, content_length
from backend.services.http2 import frames
from backend.services.http2.frames import CANCEL, END_STREAM, NO_ERROR, PROTOCOL_ERROR, REFUSED_STREAM
from backend.services.http2.heads import Head, Malformed, answer_head, check_fields
from backend.services.request_framing import Body

# What an upstream may send before somebody reads it: little until a reader was seen to wait for more, so
# that a crowd that reads nothing holds little; then enough for video.
FIRST_WINDOW_BYTES = frames.WINDOW_BYTES
LARGEST_WINDOW_BYTES = 1 << 20
# Frames of a byte each would take fifty times their size if they were kept one by one.
SMALL_CHUNK_BYTES = 1024
# Interim answers that precede one final answer.
MOST_INTERIM = 100
# Once the declared length has arrived, the end of the stream follows, in a frame of its own.
END_SECONDS = 2.0

_BODILESS = frozenset({204, 304})


class Line(Protocol):
    """What a stream needs of its connection."""

    window: int
    most_frame: int

    def write(self, content: bytes) -> None: ...

    async def writable(self) -> None: ...

    def write_body(self, number: int, chunk: bytes, flags: int) -> None: ...

    def over(self, stream: "Stream") -> None: ...


class Stream:
    """An answer as it arrives; read by `read`, ended by `aclose`.

    `window` is what the upstream still takes of the request body.
    """

    http_version = "HTTP/2"

    def __init__(self, line: Line, number: int, method: str, window: int) -> None:
        self.status = 0
        self.headers: list[Pair] = []
        self.number = number
        self.window = window
        self.upload: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self.head: asyncio.Future[None] = self._loop.create_future()
        self._line = line
        self._method = method
        self._sent_whole = False
        self._room: asyncio.Future[None] | None = None
        self._chunks: list[bytes] = []
        # Whole for its reader; ended by the upstream; gone from the connection.
        self._complete = self._ended = self._over = False
        self._failure: Exception | None = None
        self._more: asyncio.Future[None] | None = None
        self._interim = 0
        self._left: int | None = None
        self._granted = self._largest = FIRST_WINDOW_BYTES
        self._waited = False
        self._last_call: asyncio.TimerHandle | None = None

    # What the caller does.

    def at_hand(self) -> bytes | None:
        """Return the next of a body that has arrived to its end, None where `read` may have to wait."""
        return self._taken() if self._complete and self._chunks else None

    async def read(self) -> bytes:
        """Return all that has arrived of the body, b"" at its end. Raises UpstreamBroken."""
        while True:
            if self._chunks:
                return self._taken()
            if self._failure is not None:
                raise self._failure
            if self._complete:
                return b""
            self._waited = True
            self._more = self._loop.create_future()
            await self._more

    async def aclose(self) -> None:
        """Let the upstream know at once that nobody wants the rest."""
        self.abandon()
        if self.upload is not None and not self.upload.done():
            self.upload.cancel()
            await asyncio.wait({self.upload})

    def abandon(self) -> None:
        self._chunks.clear()
        if self._over:
            return
        if not self._complete:
            self._failure = self._failure or UpstreamBroken()
            _wake(self._more)
        if self._left == 0 and self._sent_whole and not self._ended:
            # Whole but for the end of the stream: a reset of each such answer would look like an attack.
            self._last_call = self._last_call or self._loop.call_later(END_SECONDS, self._reset, CANCEL)
        else:
            # RFC 9113, section 8.1: an upload that an early answer made needless is no error.
            self._reset(NO_ERROR if self._complete else CANCEL)

    def _taken(self) -> bytes:
        taken = b"".join(self._chunks)
        self._chunks.clear()
        if not self._complete and self._failure is None:
            self._grant()
        return taken

    def _grant(self) -> None:
        """Let the upstream send more once half of its window was read."""
        if self._granted > self._largest // 2 or (self._left is not None and self._left <= self._granted):
            return
        if self._waited and self._largest < LARGEST_WINDOW_BYTES:
            self._largest = min(4 * self._largest, LARGEST_WINDOW_BYTES)
        self._waited = False
        self._line.write(frames.window_update(self.number, self._largest - self._granted))
        self._granted = self._largest

    # The request body.

    def send(self, body: Body, headers: Sequence[Pair]) -> None:
        """Send a body after its head: at once as far as it fits, the rest by a task."""
        if body is None or body == b"":
            self._sent_whole = True
        elif isinstance(body, bytes) and len(body) <= min(
            self.window, self._line.window, self._line.most_frame
        ):
            self._write(body, END_STREAM)
        else:
            self.upload = self._loop.create_task(self._upload(body, content_length(headers)))

    async def _upload(self, body: bytes | AsyncIterable[bytes], length: int | None) -> None:
        """Write a body as the upstream takes it; the answer may arrive meanwhile."""
        try:
            if isinstance(body, bytes):
                await self._send(body, last=True)
            else:
                await self._send_declared(body, length)
        except Exception as exc:
            # The body failed, or the upstream hung up: whoever waits for the answer gets the reason.
            self._fail(exc)
            self._reset(CANCEL)

    async def _send_declared(self, body: AsyncIterable[bytes], length: int | None) -> None:
        left = length
        async for chunk in body:
            if left is not None:
                left -= len(chunk)
                if left < 0:
                    raise BadRequest("The request body is longer than it was declared.")
            await self._send(chunk, last=left == 0)
        if left:
            raise BadRequest("The request body is shorter than it was declared.")
        if not self._sent_whole:
            self._write(b"", END_STREAM)

    async def _send(self, chunk: bytes, *, last: bool) -> None:
        position, end = 0, len(chunk)
        while position < end:
            size = min(end - position, await self._room_for_some())
            position += size
            whole = last and position == end
            self._write(chunk[position - size : position], END_STREAM if whole else 0)

    def _room_now(self) -> int:
        return min(self.window, self._line.window, self._line.most_frame)

    async def _room_for_some(self) -> int:
        """Wait until both windows and the socket take something."""
        while True:
            if self._over:
                raise UpstreamBroken
            if self.window <= 0:
                self._room = self._loop.create_future()
                await self._room
            else:
                await self._line.writable()
                if (room := self._room_now()) > 0 and not self._over:
                    return room

    def _write(self, chunk: bytes, flags: int) -> None:
        if self._over or self._sent_whole:
            return
        self.window -= len(chunk)
        self._line.write_body(self.number, chunk, flags)
        if flags:
            self._sent_whole = True
            self._let_go_if_done()

    @property
    def unused(self) -> int:
        """What the upstream may still send, in bytes."""
        return 0 if self._ended else max(0, self._granted)

    def widen(self, increment: int) -> None:
        """The upstream takes more, or less, of the body; a window over the limit breaks the stream."""
        self.window += increment
        if self.window > frames.MOST_WINDOW_BYTES:
            self.break_off(frames.FLOW_CONTROL_ERROR)
        elif self.window > 0:
            _wake(self._room)

    # What the connection tells.

    def on_headers(self, pairs: Sequence[Pair], *, end: bool) -> None:
        try:
            if self.status:
                check_fields(pairs)  # trailers, of which nothing is relayed
                if not end:
                    raise Malformed
            else:
                self._on_head(answer_head(pairs), end=end)
        except Malformed:
            self.break_off(PROTOCOL_ERROR)
        else:
            if end:
                self._on_end()

    def _on_head(self, head: Head, *, end: bool) -> None:
        if head.status < 200:
            self._interim += 1
            if end or head.status == 101 or self._interim > MOST_INTERIM:
                raise Malformed
            return
        bodiless = self._method == "HEAD" or head.status in _BODILESS
        self._left = 0 if bodiless else head.length
        if end and self._left:
            raise Malformed
        self.status, self.headers = head.status, head.headers
        self._complete = bodiless
        if not self.head.done():
            self.head.set_result(None)

    def on_data(self, payload: bytes, size: int, *, end: bool) -> None:
        """Take `payload` of a frame that was `size` bytes with its padding."""
        self._granted -= size
        if self._left is not None:
            self._left -= len(payload)
        if not self.status or self._granted < 0 or (self._left is not None and self._left < 0):
            self.break_off(PROTOCOL_ERROR if self._granted >= 0 else frames.FLOW_CONTROL_ERROR)
            return
        if size > len(payload):
            self._granted += size - len(payload)
            self._line.write(frames.window_update(self.number, size - len(payload)))
        if payload:
            self._keep(payload)
            _wake(self._more)
        if end:
            self._on_end()

    def _keep(self, payload: bytes) -> None:
        if self._chunks and len(self._chunks[-1]) < SMALL_CHUNK_BYTES:
            self._chunks[-1] += payload
        else:
            self._chunks.append(payload)

    def _on_end(self) -> None:
        if not self.status or self._left:
            self.break_off(PROTOCOL_ERROR)
            return
        self._complete = self._ended = True
        _wake(self._more)
        self._let_go_if_done()

    def on_reset(self, code: int) -> None:
        if code == REFUSED_STREAM and not self.status:
            self._fail(UpstreamRefused())
        else:
            self._fail(UpstreamBroken())
        self._finish()

    def break_off(self, code: int) -> None:
        """End an answer that makes no sense."""
        self._fail(UpstreamBroken() if self.status else UpstreamGarbage())
        self._reset(code)

    def lose(self, failure: UpstreamError) -> None:
        """End with the connection."""
        self._fail(failure)
        self._finish()

    # How it ends.

    def _fail(self, failure: Exception) -> None:
        if self._complete:
            return
        self._failure = self._failure or failure
        if not self.head.done():
            self.head.set_exception(failure)
        _wake(self._more)

    def _reset(self, code: int) -> None:
        if not self._over:
            self._line.write(frames.reset(self.number, code))
            self._finish()

    def _let_go_if_done(self) -> None:
        if self._ended and self._sent_whole:
            self._finish()

    def _finish(self) -> None:
        if self._over:
            return
        self._over = True
        _wake(self._room)
        if self._last_call is not None:
            self._last_call.cancel()
        self._line.over(self)

    def __repr__(self) -> str:
        state = "over" if self._over else "answered" if self.status else "waiting"
        return f"<Stream {self.number} {state}>"


def _wake(waiting: "asyncio.Future[None] | None") -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
