"""An answer as the browser gets it: whole server-sent events, few and small."""

import asyncio
from collections import deque
from json.encoder import encode_basestring

from backend.errors import Overloaded

FINISHED = b'data: {"status":"finished"}\n\n'
HEARTBEAT = b": still thinking\n\n"
# Proxies and browsers give up on a connection that stays silent for longer.
HEARTBEAT_SECONDS = 15.0
# The frontend loses an event that reaches it in two reads, so one write is less than one packet.
WRITE_BYTES = 1_200
EVENT_BYTES = 1_000
# Text that comes faster is sent together: nobody sees fifty changes a second.
PACE_SECONDS = 0.02

_BEFORE = b'data: {"chunk":'
_AFTER = b',"status":"streaming"}\n\n'
_CHUNK_BYTES = EVENT_BYTES - len(_BEFORE) - len(_AFTER)


class AnswerStream:
    """A ByteStream that is filled by `say` and ended by `finish`; `begun` is done with the first text.

    `aclose` ends the task that fills it, whether or not anything was read.
    """

    def __init__(self, new_chat_id: int | None = None, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        self._loop = asyncio.get_running_loop()
        self._heartbeat_seconds = heartbeat_seconds
        self.begun: asyncio.Future[None] = self._loop.create_future()
        self._unsent: list[str] = []
        self._writes: deque[bytes] = deque()
        if new_chat_id is not None:
            self._writes.append(b'data: {"session_id":%d,"status":"streaming"}\n\n' % new_chat_id)
        self._more: asyncio.Future[bool] | None = None
        self._resting = False
        # Not needed where the text comes at a pace already.
        self.gathers = True
        self._finished = False
        self._ended = False
        self._sent_at = float("-inf")
        self._task: asyncio.Task[None] | None = None

    def owned_by(self, task: "asyncio.Task[None]") -> None:
        """Name the task that fills this stream."""
        self._task = task
        # A task that is cancelled before its first step fills nothing.
        task.add_done_callback(lambda _: self.finish())

    # What is said.

    def say(self, text: str) -> None:
        self._unsent.append(text)
        if not self.begun.done():
            self.begun.set_result(None)
        if not self._resting:
            self._wake()

    def fail(self, error: Exception) -> None:
        """There is no answer. Without effect once it has begun."""
        if not self.begun.done():
            self.begun.set_exception(error)

    def finish(self) -> None:
        """No more text comes."""
        self._finished = True
        self.fail(Overloaded())  # cut short before it began: the gateway stops
        self._wake()

    # What is read.

    async def read(self) -> bytes:
        """Return the next whole events, or a heartbeat after a long silence, b"" at the end."""
        while not self._writes:
            if self._early():
                await self._rest()
            elif self._unsent:
                self._take()
            elif self._ended:
                return b""
            elif self._finished:
                self._ended = True
                return FINISHED
            elif not await self._comes():
                return HEARTBEAT
        return self._writes.popleft()

    async def text(self) -> str:
        """Return the rest of the answer as one text."""
        parts: list[str] = []
        while self._unsent or not self._finished:
            parts += self._unsent
            self._unsent = []
            if not self._finished:
                await self._comes()
        return "".join(parts)

    async def aclose(self) -> None:
        """End the answer; what was said of it is kept by the task."""
        self._ended = True
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})
        if self.begun.done() and not self.begun.cancelled():
            self.begun.exception()  # nobody may be left who looks at it

    def _take(self) -> None:
        """Make writes of what was said."""
        self._sent_at = self._loop.time()
        text = self._unsent[0] if len(self._unsent) == 1 else "".join(self._unsent)
        self._unsent = []
        self._writes.extend(writes_of(text))

    def _early(self) -> bool:
        """Tell whether the last write was a moment ago."""
        return self.gathers and not self._finished and self._loop.time() < self._sent_at + PACE_SECONDS

    async def _rest(self) -> None:
        """Let more text come together; only the end of it interrupts."""
        self._resting = True
        try:
            await self._woken(self._sent_at + PACE_SECONDS - self._loop.time())
        finally:
            self._resting = False

    async def _comes(self) -> bool:
        """Wait until something happens; tell whether it did before a heartbeat was due."""
        return await self._woken(self._heartbeat_seconds)

    async def _woken(self, seconds: float) -> bool:
        self._more = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._wake, False)
        try:
            return await self._more
        finally:
            timer.cancel()

    def _wake(self, something: bool = True) -> None:
        more, self._more = self._more, None
        if more is not None and not more.done():
            more.set_result(something)


def writes_of(text: str) -> list[bytes]:
    """Return a text as events, several small ones in one write."""
    encoded = encode_basestring(text).encode("utf-8")
    if len(encoded) <= _CHUNK_BYTES:
        return [_BEFORE + encoded + _AFTER]
    writes: list[bytes] = []
    for piece in _pieces(text):
        event = _BEFORE + encode_basestring(piece).encode("utf-8") + _AFTER
        if writes and len(writes[-1]) + len(event) <= WRITE_BYTES:
            writes[-1] += event
        else:
            writes.append(event)
    return writes


def _pieces(text: str) -> list[str]:
    """Cut a text so that each piece fits into an event."""
    pieces = []
    start = 0
    while start < len(text):
        # At most so many characters fit, and as a character may take six bytes, at least a sixth of them do.
        piece = text[start : start + _CHUNK_BYTES]
        while len(encode_basestring(piece).encode("utf-8")) > _CHUNK_BYTES:
            piece = piece[: len(piece) * 3 // 4]
        pieces.append(piece)
        start += len(piece)
    return pieces
