"""What arrives on an HTTP/2 connection: frames put together, checked, and handed to their receiver."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Protocol

from backend.services.headers import Pair
from backend.services.http2 import frames
from backend.services.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FRAME_SIZE_ERROR,
    PADDED,
    PRIORITIZED,
    PROTOCOL_ERROR,
    Splitter,
    Violation,
)
from backend.services.http2.heads import MOST_HEAD_BYTES, Heads

# A block may be larger than what it says only by a little.
MOST_BLOCK_BYTES = 2 * MOST_HEAD_BYTES
# Frames a second that move no call on; an upstream that sends more only keeps the gateway busy.
MOST_IDLE_FRAMES = 1000
# Frames of a request body may each be answered by several that widen a window.
EARNED_BY_FRAME, BYTES_THAT_EARN = 4, 1024


class Receiver(Protocol):
    """A connection, told what its frames mean."""

    def on_settings(self, values: Sequence[tuple[int, int]]) -> None: ...

    def on_headers(self, number: int, pairs: Sequence[Pair], *, end: bool) -> None: ...

    def on_data(self, number: int, payload: bytes, size: int, *, end: bool) -> None: ...

    def on_reset(self, number: int, code: int) -> None: ...

    def on_window(self, number: int, increment: int) -> None: ...

    def on_ping(self, payload: bytes) -> None: ...

    def on_goaway(self, last: int) -> None: ...


class Reader:
    """Raises Violation from `feed` for everything that ends a connection by what it looks like."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._splitter = Splitter()
        self._heads = Heads()
        self._begun = False
        # Of a header block that goes on: stream, flags of its first frame, what has arrived.
        self._block: tuple[int, int, bytearray] | None = None
        self._idle = 0
        self._idle_since = self._loop.time()

    def feed(self, arrived: bytes) -> None:
        for kind, flags, number, payload in self._splitter.feed(arrived):
            if self._block is not None and (kind != frames.CONTINUATION or number != self._block[0]):
                raise Violation(PROTOCOL_ERROR, "a header block that was not ended")
            if not self._begun and (kind != frames.SETTINGS or flags & ACK):
                raise Violation(PROTOCOL_ERROR, "no settings to begin with")
            self._begun = True
            handle = self._HANDLERS.get(kind)
            if handle is not None:
                handle(self, flags, number, payload)
            else:
                self.count_idle()  # RFC 9113, section 4.1: unknown kinds are passed over

    def count_idle(self) -> None:
        """Count a frame that moves no call on. Raises Violation when they become a flood."""
        self._idle += 1
        if self._idle > MOST_IDLE_FRAMES:
            now, since = self._loop.time(), self._idle_since
            if now - since < 1.0:
                raise Violation(ENHANCE_YOUR_CALM, "many frames that say nothing")
            self._idle, self._idle_since = 0, now

    def earn(self, sent: int) -> None:
        """Expect the frames that answer so many bytes of a request body."""
        self._idle -= EARNED_BY_FRAME + sent // BYTES_THAT_EARN

    def _on_data(self, flags: int, number: int, payload: bytes) -> None:
        size, end = len(payload), bool(flags & END_STREAM)
        if flags & PADDED:
            payload = frames.unpadded(PADDED, payload)
        if not payload and not end:
            self.count_idle()
        self._receiver.on_data(number, payload, size, end=end)

    def _on_headers(self, flags: int, number: int, payload: bytes) -> None:
        if flags & (PADDED | PRIORITIZED):
            payload = frames.unpadded(flags, payload)
        if flags & END_HEADERS:
            self._on_block(flags, number, payload)
        else:
            self._block = (number, flags, bytearray(payload))

    def _on_continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._block is None:
            raise Violation(PROTOCOL_ERROR, "the continuation of nothing")
        self.count_idle()
        _, first, block = self._block
        block += payload
        if len(block) > MOST_BLOCK_BYTES:
            raise Violation(ENHANCE_YOUR_CALM, "a header block without end")
        if flags & END_HEADERS:
            self._block = None
            self._on_block(first, number, bytes(block))

    def _on_block(self, flags: int, number: int, block: bytes) -> None:
        # Decoded for a stream that is over, too: the next block builds on it.
        self._receiver.on_headers(number, self._heads.decode(block), end=bool(flags & END_STREAM))

    def _on_reset(self, flags: int, number: int, payload: bytes) -> None:
        self._receiver.on_reset(number, frames.parse_word(payload))

    def _on_settings(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise Violation(PROTOCOL_ERROR, "settings for one stream")
        self.count_idle()
        if not flags & ACK:
            self._receiver.on_settings(frames.parse_settings(payload))

    def _on_push(self, flags: int, number: int, payload: bytes) -> None:
        raise Violation(PROTOCOL_ERROR, "a push that was refused beforehand")

    def _on_ping(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) != 8:
            raise Violation(PROTOCOL_ERROR if number else FRAME_SIZE_ERROR, "a ping that is none")
        self.count_idle()
        if not flags & ACK:
            self._receiver.on_ping(payload)

    def _on_goaway(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise Violation(PROTOCOL_ERROR, "goodbye to one stream")
        self.count_idle()
        self._receiver.on_goaway(frames.parse_goaway(payload))

    def _on_window(self, flags: int, number: int, payload: bytes) -> None:
        self.count_idle()
        self._receiver.on_window(number, frames.parse_word(payload) & frames.MOST_WINDOW_BYTES)

    def _on_priority(self, flags: int, number: int, payload: bytes) -> None:
        self.count_idle()

    _HANDLERS: ClassVar[Mapping[int, Callable[["Reader", int, int, bytes], None]]] = {
        frames.DATA: _on_data,
        frames.HEADERS: _on_headers,
        frames.PRIORITY: _on_priority,
        frames.RST_STREAM: _on_reset,
        frames.SETTINGS: _on_settings,
        frames.PUSH_PROMISE: _on_push,
        frames.PING: _on_ping,
        frames.GOAWAY: _on_goaway,
        frames.WINDOW_UPDATE: _on_window,
        frames.CONTINUATION: _on_continuation,
    }
