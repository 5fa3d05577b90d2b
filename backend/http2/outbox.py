"""What a connection has to send: frames in order, bodies in turn as far as the client's windows go."""

from collections import deque
from collections.abc import Callable

from backend.http2 import frames
from backend.http2.flow import Growth, StreamReceipts
from backend.http2.frames import Code, ConnectionFault, StreamFault
from backend.http2.patience import Patience

# Framed and not yet on the socket: enough for one write, little enough for a thousand who never read.
BURST_BYTES = 64 * 1024
# Answers to the client's own frames (PING, SETTINGS, resets) that it does not take.
CONTROL_BYTES = 64 * 1024
# A DATA frame of less, with more behind it, earns no patience: the client asked for crumbs.
CRUMB_BYTES = 1024


class Stream:
    """A stream that is open on one side at least."""

    __slots__ = (
        *("answering", "asking", "ending", "id", "left"),
        *("queue", "queued", "receipts", "unsent", "window"),
    )

    def __init__(self, stream_id: int, window: int, growth: Growth, content_length: int | None) -> None:
        self.id = stream_id
        # Whether the client still sends, and whether the gateway still may.
        self.asking = True
        self.answering = True
        # What the body still owes its content-length.
        self.left = content_length
        self.receipts = StreamReceipts(growth)
        self.window = window
        self.queue: deque[memoryview] = deque()
        self.unsent = 0
        self.ending = False
        self.queued = False

    def __repr__(self) -> str:
        return f"<Stream {self.id}, window {self.window}, {self.unsent} octets unsent>"


class Outbox:
    """Frames bodies one frame a stream in turn; `ended` is called when a stream's last frame is made."""

    def __init__(self, patience: Patience, ended: Callable[[Stream], None]) -> None:
        self._patience = patience
        self._ended = ended
        self._out = bytearray()
        self._control = 0
        self._window = frames.DEFAULT_WINDOW
        self._ready: deque[Stream] = deque()
        self._drained: list[int] = []

    def __len__(self) -> int:
        return len(self._out)

    @property
    def waiting(self) -> bool:
        """Whether take() would return something."""
        return bool(self._out) or (bool(self._ready) and self._window > 0)

    def put(self, frame: bytes) -> None:
        self._out += frame

    def reply(self, frame: bytes) -> None:
        """Answer a frame of the client's that costs it nothing. Raises ConnectionFault when it reads none."""
        self._control += len(frame)
        if self._control > CONTROL_BYTES:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "answers to control frames are not read")
        self._out += frame

    def head(self, stream: Stream, block: bytes, *, end: bool) -> None:
        """Send a field block, in as many frames as it needs."""
        kind, flags = frames.HEADERS, frames.END_STREAM if end else 0
        for start in range(0, len(block), frames.FRAME_BYTES):
            if start + frames.FRAME_BYTES >= len(block):
                flags |= frames.END_HEADERS
            self._out += frames.frame(kind, flags, stream.id, block[start : start + frames.FRAME_BYTES])
            kind, flags = frames.CONTINUATION, 0
        if end:
            self._ended(stream)

    def body(self, stream: Stream, content: bytes, *, end: bool) -> bool:
        """Send some of a body; tells whether all of it is framed, else drained() will name the stream."""
        stream.ending = end
        if content:
            stream.queue.append(memoryview(content))
            stream.unsent += len(content)
        if stream.unsent:
            self._queue(stream)
            self._fill()
            return not stream.unsent
        if end:  # nothing but the end: it needs no window
            self._out += frames.header(frames.DATA, frames.END_STREAM, stream.id, 0)
            self._ended(stream)
        return True

    def take(self) -> bytes:
        """Return what is to be written now, b"" for nothing."""
        self._fill()
        burst = bytes(self._out)
        self._out.clear()
        self._control = 0
        return burst

    def drained(self) -> list[int]:
        """Return the streams that had something unsent and have nothing any more."""
        drained, self._drained = self._drained, []
        return drained

    def widen(self, stream: Stream, change: int) -> None:
        """Change a stream's window. Raises StreamFault."""
        if stream.window + change > frames.LARGEST_WINDOW:
            raise StreamFault(stream.id, Code.FLOW_CONTROL_ERROR, "stream window beyond 2^31-1")
        stream.window += change
        self._queue(stream)

    def widen_connection(self, increment: int) -> None:
        """Widen the connection's window. Raises ConnectionFault."""
        if self._window + increment > frames.LARGEST_WINDOW:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "connection window beyond 2^31-1")
        self._window += increment

    def drop(self, stream: Stream) -> None:
        """Forget what a stream has not sent."""
        stream.queue.clear()
        stream.unsent = 0
        stream.answering = False

    def _queue(self, stream: Stream) -> None:
        if stream.unsent and stream.window > 0 and not stream.queued:
            stream.queued = True
            self._ready.append(stream)

    def _fill(self) -> None:
        while self._ready and self._window > 0 and len(self._out) < BURST_BYTES:
            stream = self._ready.popleft()
            stream.queued = False
            if stream.unsent and stream.window > 0:
                self._frame_from(stream)
                self._queue(stream)

    def _frame_from(self, stream: Stream) -> None:
        length = min(stream.unsent, stream.window, self._window, frames.FRAME_BYTES)
        stream.unsent -= length
        stream.window -= length
        self._window -= length
        end = stream.ending and not stream.unsent
        self._out += frames.header(frames.DATA, frames.END_STREAM if end else 0, stream.id, length)
        rest = length
        while rest:
            part = stream.queue.popleft()
            if len(part) > rest:
                stream.queue.appendleft(part[rest:])
                part = part[:rest]
            self._out += part
            rest -= len(part)
        if length >= CRUMB_BYTES or not stream.unsent:
            self._patience.earn()
        if not stream.unsent:
            self._drained.append(stream.id)
        if end:
            self._ended(stream)
