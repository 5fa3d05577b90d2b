"""One HTTP/2 connection to an upstream, with many calls on it."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from backend.errors import UpstreamBroken, UpstreamGarbage, UpstreamRefused
from backend.services.headers import Pair, content_length
from backend.services.http2 import frames
from backend.services.http2.frames import (
    ACK,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
    Violation,
)
from backend.services.http2.heads import EMPTY_TABLE, MOST_HEAD_BYTES, request_block
from backend.services.http2.reader import Reader
from backend.services.http2.stream import FIRST_WINDOW_BYTES, Stream
from backend.services.request_framing import Body

# More would put too many calls at the mercy of one connection, and of one worker behind it. It is also
# what is expected of an upstream that has not said yet how many it takes: most allow 100.
MOST_STREAMS = 100
# What arrives is acknowledged for the connection at once, and for a stream when it is read: whoever does not
# read holds up nobody else.
CONNECTION_WINDOW_BYTES = 16 << 20
# Answers to pings and settings that the upstream does not take.
MOST_UNSENT_BYTES = 4 << 20
# Larger frames save little, and hold up the other calls longer.
MOST_FRAME_BYTES = 4 * frames.FRAME_BYTES
# A goodbye gets this long to leave.
CLOSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it goes on the wire, whatever the connection."""

    method: str
    secure: bool
    authority: bytes
    target: bytes
    headers: Sequence[Pair]


class Connection(asyncio.Protocol):
    """Carries up to `limit` calls at once, and tells `on_change` when it takes more, or none any longer.

    `ready` is done when the upstream has sent its settings. `room` is how many more calls may be sent.
    """

    def __init__(self, on_change: "Callable[[Connection], None]", silence_seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_change = on_change
        self._silence_seconds = silence_seconds
        self._transport: asyncio.Transport | None = None
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.limit = MOST_STREAMS
        self.window = frames.WINDOW_BYTES
        self.most_frame = frames.FRAME_BYTES
        self.closed = False
        self.idle_since = self._heard = self._loop.time()
        self._reader = Reader(self)
        self._streams: dict[int, Stream] = {}
        self._next = 1
        self._stream_window = frames.WINDOW_BYTES
        # What arrived and is not acknowledged yet; what may still arrive for streams that were given up.
        self._unacknowledged = self._stale = 0
        self._retired = self._silent = self._pinged = False
        self._watch: asyncio.TimerHandle | None = None
        self._outbox: list[bytes] = []
        self._blocked = False
        self._senders: deque[asyncio.Future[None]] = deque()

    @property
    def usable(self) -> bool:
        return not (self.closed or self._retired or self._silent)

    @property
    def room(self) -> int:
        return self.limit - len(self._streams) if self.usable else 0

    @property
    def idle(self) -> bool:
        return not self._streams

    async def send(self, request: Request, body: Body) -> Stream:
        """Send one request and return its answer once the head is there.

        Raises UpstreamRefused when the upstream let it be, UpstreamBroken, UpstreamGarbage.
        """
        stream = self._begin(request, body)
        try:
            await stream.head
        except BaseException:
            await stream.aclose()
            raise
        return stream

    def _begin(self, request: Request, body: Body) -> Stream:
        headers = request.headers
        if isinstance(body, bytes) and content_length(headers) is None:
            headers = [*headers, (b"content-length", b"%d" % len(body))]
        block = request_block(request.method, request.secure, request.authority, request.target, headers)
        if not self.usable:
            raise UpstreamRefused
        number, self._next = self._next, self._next + 2
        if number == 1:
            block = EMPTY_TABLE + block
        if self._next > frames.LAST_STREAM:
            self._retired = True
        stream = self._streams[number] = Stream(self, number, request.method, self._stream_window)
        end = END_STREAM if body is None or body == b"" else 0
        self.write(frames.headers(number, block, end, self.most_frame))
        stream.send(body, request.headers)
        if self._watch is None:
            self._heard = self._loop.time()
            self._watch = self._loop.call_later(self._silence_seconds, self._look)
        return stream

    def over(self, stream: Stream) -> None:
        """Forget a stream that ended."""
        if self._streams.pop(stream.number, None) is None:
            return
        self._stale += stream.unused
        if not self._streams:
            self.idle_since = self._loop.time()
            if not self.usable:
                self.close()
        self._on_change(self)

    # Writing.

    def write(self, content: bytes) -> None:
        """Write with everything else that this turn of the loop writes."""
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.append(content)

    def write_body(self, number: int, chunk: bytes, flags: int) -> None:
        self.window -= len(chunk)
        self._reader.earn(len(chunk))
        self.write(frames.frame(frames.DATA, flags, number, chunk))
        self._flush()

    def _flush(self) -> None:
        if self._outbox and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._outbox))
        self._outbox.clear()

    async def writable(self) -> None:
        """Wait, in turn, until the connection takes some of a request body."""
        while (self.window <= 0 or self._blocked) and not self.closed:
            turn = self._loop.create_future()
            self._senders.append(turn)
            await turn

    def _wake_senders(self) -> None:
        senders, self._senders = self._senders, deque()
        for turn in senders:
            if not turn.done():
                turn.set_result(None)

    # Ending.

    def close(self, code: int = NO_ERROR) -> None:
        """Say goodbye and close; calls that are still on the connection break."""
        if self.closed or self._transport is None:
            return
        self.write(frames.goaway(code))
        self._flush()
        self._transport.close()
        self._loop.call_later(CLOSE_SECONDS, self._transport.abort)
        self._lose(garbage=code != NO_ERROR)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        self._lose()

    def _lose(self, *, garbage: bool = False) -> None:
        if self.closed:
            return
        self.closed = True
        if self._watch is not None:
            self._watch.cancel()
        if not self.ready.done():
            self.ready.set_exception(UpstreamGarbage() if garbage else UpstreamRefused())
        for stream in list(self._streams.values()):
            stream.lose(UpstreamGarbage() if garbage and not stream.status else UpstreamBroken())
        self._wake_senders()
        self._on_change(self)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        ours = {
            frames.ENABLE_PUSH: 0,
            frames.INITIAL_WINDOW_SIZE: FIRST_WINDOW_BYTES,
            frames.MAX_HEADER_LIST_SIZE: MOST_HEAD_BYTES,
        }
        self.write(frames.PREFACE + frames.settings(ours))
        self.write(frames.window_update(0, CONNECTION_WINDOW_BYTES - frames.WINDOW_BYTES))

    def data_received(self, data: bytes) -> None:
        if self.closed:
            return
        self._heard = self._loop.time()
        self._pinged = False
        if self._silent:
            self._silent = False
            self._on_change(self)
        try:
            self._reader.feed(data)
        except Violation as violation:
            self.close(violation.code)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose()

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        self._wake_senders()

    # What its reader calls.

    def on_settings(self, values: Sequence[tuple[int, int]]) -> None:
        for code, value in values:
            if code == frames.MAX_CONCURRENT_STREAMS:
                self.limit = min(value, MOST_STREAMS)
            elif code == frames.MAX_FRAME_SIZE:
                self.most_frame = min(value, MOST_FRAME_BYTES)
            elif code == frames.INITIAL_WINDOW_SIZE:
                change, self._stream_window = value - self._stream_window, value
                for stream in list(self._streams.values()):
                    stream.widen(change)
        self._acknowledge(frames.frame(frames.SETTINGS, ACK, 0))
        if not self.ready.done():
            self.ready.set_result(None)
        self._on_change(self)

    def on_headers(self, number: int, pairs: Sequence[Pair], *, end: bool) -> None:
        stream = self._stream(number)
        if stream is not None:
            stream.on_headers(pairs, end=end)
        else:
            self._reader.count_idle()

    def on_data(self, number: int, payload: bytes, size: int, *, end: bool) -> None:
        stream = self._stream(number)
        self._unacknowledged += size
        if self._unacknowledged >= CONNECTION_WINDOW_BYTES // 2:
            self.write(frames.window_update(0, self._unacknowledged))
            self._unacknowledged = 0
        if stream is not None:
            stream.on_data(payload, size, end=end)
        else:
            self._stale -= size
            if self._stale < 0:
                raise Violation(STREAM_CLOSED, "more of what was given up than had its permission")

    def on_reset(self, number: int, code: int) -> None:
        stream = self._stream(number)
        if stream is not None:
            stream.on_reset(code)
        else:
            self._reader.count_idle()

    def on_window(self, number: int, increment: int) -> None:
        if number:
            stream = self._stream(number)
            if stream is not None:
                stream.widen(increment) if increment else stream.break_off(PROTOCOL_ERROR)
            return
        if not increment:
            raise Violation(PROTOCOL_ERROR, "a window that grows by nothing")
        self.window += increment
        if self.window > frames.MOST_WINDOW_BYTES:
            raise Violation(FLOW_CONTROL_ERROR, "a window over 2^31-1")
        self._wake_senders()

    def on_ping(self, payload: bytes) -> None:
        self._acknowledge(frames.frame(frames.PING, ACK, 0, payload))

    def on_goaway(self, last: int) -> None:
        """Take no new calls; those that the upstream will not look at count as never sent."""
        self._retired = True
        self._on_change(self)
        for stream in [stream for stream in self._streams.values() if stream.number > last]:
            stream.on_reset(REFUSED_STREAM)
        if not self._streams:
            self.close()

    def _stream(self, number: int) -> Stream | None:
        """Return the stream of a frame, None when it is over. Raises Violation for one that never was."""
        if not number % 2 or number >= self._next:
            raise Violation(PROTOCOL_ERROR, f"a frame for stream {number}, which is none")
        return self._streams.get(number)

    def _acknowledge(self, content: bytes) -> None:
        transport = self._transport
        if transport is not None and transport.get_write_buffer_size() > MOST_UNSENT_BYTES:
            raise Violation(ENHANCE_YOUR_CALM, "questions without taking the answers")
        self.write(content)

    # Whether the other side is still there.

    def _look(self) -> None:
        """Ask after a silence; without an answer send no more calls here, while those on the way wait on.

        They end by their own clocks: an upstream that only computes is as silent as one that is gone.
        """
        self._watch = None
        if not self._streams or self.closed:
            return
        left = self._heard + self._silence_seconds - self._loop.time()
        if left <= 0:
            left = self._silence_seconds
            if not self._pinged:
                self._pinged = True
                self.write(frames.frame(frames.PING, 0, 0, b"are you?"))
            elif not self._silent:
                self._silent = True
                self._on_change(self)
        self._watch = self._loop.call_later(left, self._look)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "usable" if self.usable else "retired"
        return f"<Connection {state}, {len(self._streams)} of {self.limit} calls>"
