"""One WebSocket: a client, an upstream, and what each of them does told to the other."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backend.services.headers import Pair
from backend.services.websocket import frames
from backend.services.websocket.frames import CLOSE, Frame, Violation
from backend.services.websocket.sides import End, Side

# A peer that was told the end has so long to answer; browsers and libraries do it at once.
CLOSE_SECONDS = 2.0
# A peer that takes nothing for so long is treated as gone.
STALL_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one WebSocket may take: bytes of a message, seconds without a frame, seconds in all."""

    message_bytes: int
    idle: float
    total: float | None = None


@dataclass(slots=True)
class Ending:
    """How it ended: the first close code, and whether a side was lost without one."""

    code: int | None = None
    client_lost: bool = False
    upstream_lost: bool = False


class Relay:
    """Owns the upstream's side from the handshake on, and the client's from `run`; ends both."""

    def __init__(self, upstream: Side, limits: Limits, on_end: Callable[["Relay"], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._upstream = End(upstream)
        self._client: End | None = None
        self.limits = limits
        self._on_end: Callable[[Relay], None] | None = on_end
        self._done: asyncio.Future[None] | None = None
        self._began = self._last = self._loop.time()
        self._closing_at: float | None = None
        self.ending = Ending()
        self.received_bytes = 0
        self.sent_bytes = 0
        self.used = False  # by its client, since somebody last looked

    async def run(self, client: Side) -> Ending:
        """Relay until both sides are gone."""
        self._client = End(client)
        self._done = self._loop.create_future()
        self._last = self._loop.time()
        try:
            if self._closing_at is not None:  # meanwhile the gateway began to stop
                self._tell(self._client, self._last_word(), b"")
            client.begin(self)
            self._upstream.side.begin(self)
            await self._done
        finally:
            await self.aclose()
            await client.aclose()
        return self.ending

    async def aclose(self) -> None:
        """End both sides now; harmless when called again."""
        for end in self._ends():
            if not end.side.gone:
                end.side.abort()
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self)

    def end(self, code: int, reason: str) -> None:
        """Tell the client a close code, and the upstream that the other side leaves."""
        if self._closing_at is not None:
            return
        self._note(code)
        client = self._client
        if client is not None:
            self._tell(client, code, reason.encode("ascii"))
        self._tell(self._upstream, frames.GOING_AWAY, b"")
        self._close_soon()

    def check(self, now: float) -> None:
        """Look at the limits; `now` is loop time."""
        if self._closing_at is not None:
            if now >= self._closing_at:
                self._insist(now)
        elif now - self._last > self.limits.idle:
            self.end(frames.GOING_AWAY, "idle for too long")
        elif self.limits.total is not None and now - self._began > self.limits.total:
            self.end(frames.GOING_AWAY, "open for too long")
        else:
            for end in self._ends():
                if end.blocked_at is not None and now - end.blocked_at > STALL_SECONDS:
                    self.end(frames.GOING_AWAY, "nothing is taken")
                    end.side.abort()

    # What the sides tell.

    def arrived(self, side: Side, found: Sequence[Frame]) -> None:
        """Pass frames on; a Close frame is the last of them."""
        this, other = self._of(side)
        if this.said_close or other is None:
            return
        self._last = self._loop.time()
        closing = found[-1] if found[-1].opcode == CLOSE else None
        passed = found if closing is None else found[:-1]
        self._count(this, passed)
        if passed and not other.told_close:
            other.side.pass_on(passed)
        if closing is not None:
            self.closed(side, *frames.close_of(closing.payload))

    def closed(self, side: Side, code: int, reason: bytes) -> None:
        """A side said Close: the other is told, and its answer comes back the same way."""
        this, other = self._of(side)
        this.said_close = True
        self._note(code)
        if other is not None:
            self._tell(other, code, reason)
            self._settle(other)
        self._settle(this)
        self._close_soon()

    def violated(self, side: Side, violation: Violation) -> None:
        """A side broke the rules: it is told so, and the other one that this is over."""
        this, other = self._of(side)
        self._note(violation.code)
        this.said_close = True  # nothing more is read of it
        this.verdict = violation.code, violation.reason.encode("ascii")
        if this is self._upstream:
            self._tell(this, *this.verdict)
        if other is not None:
            # What a client said before is answered first: it hears the verdict behind the upstream's Close.
            self._tell(other, frames.UNEXPECTED if this is self._upstream else frames.GOING_AWAY, b"")
            self._settle(other)
        self._settle(this)
        self._close_soon()

    def left(self, side: Side) -> None:
        """A side sends no more."""
        this, other = self._of(side)
        if this.said_close or other is None:
            if not side.gone:
                side.finish()
            return
        this.said_close = this.told_close = True  # nobody is left who could be told
        self._let_flow(this)
        if not (other.said_close or self._closing_at is not None):
            self._lost(this)
        if this is self._upstream:
            # Unless the client had said it itself, this is the end that nobody announced.
            self._tell(other, self._last_word(), b"")
        else:
            self._tell(other, frames.GOING_AWAY, b"")
            other.said_close = True  # nobody is left to whom its answer matters
        self._settle(other)
        if not side.gone:
            side.abort()
        self._close_soon()

    def lost(self, side: Side) -> None:
        """The connection of a side is gone."""
        self.left(side)
        if all(end.side.gone for end in self._ends()) and self._done is not None and not self._done.done():
            self._done.set_result(None)

    def blocked(self, side: Side) -> None:
        """A side takes too little: the other one is read no further."""
        this, _ = self._of(side)
        this.blocked_at = self._loop.time()
        self._let_flow(this)

    def freed(self, side: Side) -> None:
        this, _ = self._of(side)
        this.blocked_at = None
        self._let_flow(this)

    def _let_flow(self, end: End) -> None:
        """Read the other side, unless what it says is still for one that takes too little."""
        _, other = self._of(end.side)
        if other is not None:
            waits = end.blocked_at is not None and not end.told_close
            (other.side.pause if waits else other.side.resume)()

    # The end.

    def _tell(self, end: End, code: int, reason: bytes) -> None:
        if not end.told_close:
            end.told_close = True
            if not end.side.gone:
                end.side.close(*(end.verdict or (code, reason)))
            if end.blocked_at is not None:
                self._let_flow(end)  # nothing more is passed on to it, and the other's answer is to be read

    def _settle(self, end: End) -> None:
        if end.said_close and end.told_close and not end.side.gone:
            end.side.finish()

    def _close_soon(self) -> None:
        if self._closing_at is None:
            self._closing_at = self._loop.time() + CLOSE_SECONDS

    def _insist(self, now: float) -> None:
        """Time is up: but a slow reader gets all that was passed on, as long as it goes on reading."""
        for end in self._ends():
            if end.side.gone:
                continue
            unsent, before = end.side.unsent, end.unsent
            if not end.told_close:
                self._tell(end, self._last_word(), b"")
                self._settle(end)
            elif not unsent or (before is not None and unsent >= before):
                end.side.abort()
                continue
            end.unsent = unsent
            self._closing_at = now + CLOSE_SECONDS

    def _last_word(self) -> int:
        """Return the code for a side that the other one leaves without an answer: as a rule its own."""
        code = self.ending.code
        known = code is not None and (frames.may_be_sent(code) or code == frames.NO_CODE)
        return code if known and code is not None else frames.GOING_AWAY

    def _lost(self, end: End) -> None:
        if end is self._upstream:
            self.ending.upstream_lost = True
            self._note(frames.UNEXPECTED)
        else:
            self.ending.client_lost = True
            self._note(frames.LOST)

    def _note(self, code: int) -> None:
        if self.ending.code is None:
            self.ending.code = code

    def _count(self, this: End, passed: Sequence[Frame]) -> None:
        size = sum(len(frame.wire) for frame in passed)
        if this is self._upstream:
            self.sent_bytes += size
        else:
            self.received_bytes += size
            self.used = True

    def _ends(self) -> tuple[End, ...]:
        return (self._upstream,) if self._client is None else (self._client, self._upstream)

    def _of(self, side: Side) -> tuple[End, End | None]:
        if side is self._upstream.side:
            return self._upstream, self._client
        assert self._client is not None  # noqa: S101 - narrows the type
        return self._client, self._upstream

    def __repr__(self) -> str:
        state = "ending" if self._closing_at is not None else "open"
        return f"<Relay {state}, {self.received_bytes} bytes in, {self.sent_bytes} out>"


@dataclass(frozen=True, slots=True)
class Opened:
    """A WebSocket that the upstream has accepted; `headers`, `protocol`, `key` are for the client's 101."""

    headers: list[Pair]
    protocol: str | None
    key: bytes
    relay: Relay
